"""Our side of `peers.py`: what `peers_worker.py` does, by this toolkit, of the same shapes.

`python ours_worker.py THREADS`; it answers on stdin and stdout as `serving` says. Everything is as
the toolkit's commands have it by default. Shapes: B batch, P codes of a prompt, T samples or codes.
"""

import sys
import time

import numpy as np
import torch
from made import random_codec
from serving import Answer, Run, serve
from tasks import Settings, model_tasks, timed

from codec.config import VQVAEConfig
from codec.vqvae import token_spec
from prior.config import PriorConfig
from prior.engine import Engine
from prior.int8 import use_int8
from prior.prior import Prior


def main(threads: int) -> None:
    """Answer until there are no more questions."""
    works = {work.__name__: work for work in (encode, decode, sample, codec)}
    serve({**works, **model_tasks(make_prior, Prior.loss)}, threads)


def encode(settings: Settings) -> Run:
    """All levels of the published VQ-VAE."""
    model = random_codec()
    audio = torch.from_numpy(np.load(settings["audio"]))[None, None]  # [1, 1, T]
    return timed(lambda: model.encode(audio))


def decode(settings: Settings) -> Run:
    """Level 0 of the published VQ-VAE."""
    model = random_codec()
    codes = torch.randint(2048, (1, settings["codes"]))
    return timed(lambda: model.decode({"0": codes}))


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


def make_prior(shape: Settings) -> Prior:
    """A prior of random weights without conditioners, over the coarsest published stream."""
    torch.manual_seed(0)
    spec = token_spec(VQVAEConfig())
    return Prior(PriorConfig(spec=spec, stream="2", vocab_size=2048, res_scale=True, **shape))


if __name__ == "__main__":
    main(int(sys.argv[1]))
