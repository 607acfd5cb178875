"""What lower precision of the weights costs a prior that was trained on real music.

Bits per code on tracks that were held out, in float32, bfloat16 and with int8 weights. The prior is
that of the demo, `out/demo`, if it is there; else a small one is trained here, by the toolkit's own
commands, which takes minutes and is kept. A part of `sampling.py`.
"""

import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from music import HELD_OUT, MUSIC

from codec.corpus import Corpus
from plugins.ground.errors import InputError
from prior.checkpoint import load_prior
from prior.data import Windows, stack
from prior.int8 import use_int8
from prior.prior import Prior

DEMO = Path("out/demo")
PRECISIONS: dict[str, Callable[[Prior], Prior]] = {
    "float32": lambda prior: prior,
    "bfloat16": lambda prior: prior.to(torch.bfloat16),
    "int8": use_int8,
}
CPU = torch.device("cpu")


def bits_per_code(folder: Path, quick: bool) -> list[dict[str, float | str]]:
    """By precision.

    Args:
        folder: where a trained prior is kept.
        quick: train for a few steps only.
    """
    model, tokens = (DEMO / "model", DEMO / "tokens")
    if quick or not (model / "prior_1" / "model.safetensors").exists():
        model, tokens = folder / "model", folder / "tokens"
        _train(model, tokens, quick)
    rows: list[dict[str, float | str]] = []
    for name, lower in PRECISIONS.items():
        bits = _bits(lower(load_prior(model / "prior_1").eval()), tokens)
        plain = float(rows[0]["bits_per_code"]) if rows else bits
        rows.append({"precision": name, "bits_per_code": bits, "over_float32": bits - plain})
    return rows


@torch.inference_mode()
def _bits(prior: Prior, tokens: Path) -> float:
    """Mean over all codes of the tracks that the prior was not trained on."""
    corpus = Corpus(tokens)
    tracks = [i for i in range(len(corpus)) if Path(str(corpus[i]["path"])).name in HELD_OUT]
    windows = Windows(corpus, prior, tracks, seed=0, training=False)
    total = count = 0.0
    for index in range(len(windows.crops)):
        batch = stack([windows(index)], CPU)
        codes, mask = batch.pop("codes"), batch.pop("mask")
        known = float(mask.sum())
        total += known * float(prior.losses(codes, prior.condition(batch), mask).codes)
        count += known
    return total / count / math.log(2)


def _train(model: Path, tokens: Path, quick: bool) -> None:
    """A codec, its tokens, a prior of the coarsest stream; each goes on from what is done."""
    sources = [MUSIC] if not quick else [*sorted(MUSIC.glob("*.ogg"))[:1], MUSIC / HELD_OUT[0]]
    held_out = [f"--held-out={name}" for name in (HELD_OUT[:1] if quick else HELD_OUT)]
    codec_steps, prior_steps = (2, 2) if quick else (300, 300)
    _run("codec.train", *sources, "--out", model / "codec", "--preset", "tiny",
         "--clip-seconds", 0.37, "--steps", codec_steps, "--learning-rate", 2e-3,
         *(["--batch-size", 2] if quick else []), *held_out)  # fmt: skip
    _run("codec.tokenize", *sources, "--codec", model / "codec", "--out", tokens)
    _run("prior.train", tokens, "--out", model / "prior_1", "--stream", 1, "--preset", "tiny",
         "--set", "width=192", "--steps", prior_steps, "--batch-size", 4, "--learning-rate", 1e-3,
         *held_out)  # fmt: skip


def _run(module: str, *arguments: object) -> None:
    command = [sys.executable, "-m", module, *map(str, arguments)]
    if subprocess.run(command, check=False).returncode:
        raise InputError(f"python -m {module} failed: see above")
