"""Our side of `peers.py`: what `peers_worker.py` does, by this toolkit, of the same shapes.

`python ours_worker.py THREADS`; it answers on stdin and stdout as `serving` says. Everything is as
the toolkit's commands have it by default. Shapes: B batch, P codes of a prompt, T samples or codes.
"""

import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from costs import peak, seconds
from made import random_codec
from serving import Answer, Run, serve
from torch import nn

from codec.config import VQVAEConfig
from codec.vqvae import token_spec
from prior.config import PriorConfig
from prior.engine import Engine
from prior.int8 import use_int8
from prior.prior import Prior

Settings = Mapping[str, Any]
CPU = torch.device("cpu")


def main(threads: int) -> None:
    """Answer until there are no more questions."""
    works = (encode, decode, sample, forward, train, train_memory, codec)
    serve({work.__name__: work for work in works}, threads)


def encode(settings: Settings) -> Run:
    """All levels of the published VQ-VAE."""
    model = random_codec()
    audio = torch.from_numpy(np.load(settings["audio"]))[None, None]  # [1, 1, T]
    return _timed(lambda: model.encode(audio))


def decode(settings: Settings) -> Run:
    """Level 0 of the published VQ-VAE."""
    model = random_codec()
    codes = torch.randint(2048, (1, settings["codes"]))
    return _timed(lambda: model.decode({"0": codes}))


def codec(settings: Settings) -> Run:
    """Encode all levels, then decode the finest."""
    model = random_codec()
    audio = torch.from_numpy(np.load(settings["audio"]))[None, None]  # [1, 1, T]

    def run() -> Answer:
        started = time.perf_counter()
        codes = model.encode(audio)
        encoded = time.perf_counter()
        model.decode(codes)
        return {"encode": encoded - started, "decode": time.perf_counter() - encoded}

    return run


def sample(settings: Settings) -> Run:
    """Until the first code after a prompt, and so many more from there."""
    prior, count = make_prior(settings["shape"]), settings["count"]
    if settings.get("int8"):
        use_int8(prior)
    prompt = torch.randint(2048, (settings["batch"], settings["prompt"]))
    stop = prompt.shape[1] + 1 + count
    engine = Engine(prior, batch=len(prompt), length=stop)
    uniforms = torch.rand(len(prompt), 1 + count, dtype=torch.float64)

    def run() -> Answer:
        started = time.perf_counter()
        codes = engine.stream(prompt, stop, uniforms)
        next(codes)
        filled = time.perf_counter()
        for _ in codes:
            pass
        return {"fill": filled - started, "steps": time.perf_counter() - filled}

    return run


def forward(settings: Settings) -> Run:
    """The loss of a window of codes."""
    prior = make_prior(settings["shape"]).eval()
    codes = torch.randint(2048, (1, settings["codes"]))
    return _timed(lambda: prior.loss(codes))


def train(settings: Settings) -> Run:
    """A step of training."""
    return _timed(_step(settings), grad=True)


def train_memory(settings: Settings) -> Run:
    """What a step of training needs beyond weights and the optimiser's state."""
    step = _step(settings)
    step()
    return lambda: {"bytes": peak(step, CPU)}


def _step(settings: Settings) -> Callable[[], None]:
    prior = make_prior(settings["shape"]).train()
    codes = torch.randint(2048, (settings["batch"], settings["shape"]["context"]))
    optimiser = torch.optim.AdamW(prior.parameters(), **settings["optimiser"])

    def step() -> None:
        prior.loss(codes).backward()
        nn.utils.clip_grad_norm_(prior.parameters(), settings["clip"])
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    return step


def make_prior(shape: Settings) -> Prior:
    """A prior of random weights without conditioners, over the coarsest published stream."""
    torch.manual_seed(0)
    spec = token_spec(VQVAEConfig())
    return Prior(PriorConfig(spec=spec, stream="2", vocab_size=2048, res_scale=True, **shape))


def _timed(work: Callable[[], object], grad: bool = False) -> Run:
    def run() -> Answer:
        with torch.set_grad_enabled(grad):
            return {"seconds": seconds(work, CPU)}

    return run


if __name__ == "__main__":
    main(int(sys.argv[1]))
