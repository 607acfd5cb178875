"""Golden cases of codecs: codes, decoded audio, losses, and a moving codebook.

It knows what the arrays of such a case are called, not where their files are. Shapes: B batch,
T samples, C channels, N codes of a level, K codebook entries, D their width.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from codec.checkpoint import load_codec
from codec.losses import Bandwidth
from codec.quantize import Quantizer
from codec.vqvae import VQVAE
from plugins.openai.comparison import (
    ABSOLUTE,
    EQUAL,
    FINE,
    RELATIVE,
    Arrays,
    Row,
    Tolerance,
    compare_all,
)

BANDWIDTH = ("bandwidth_l1", "bandwidth_l2", "bandwidth_spec")
KINDS = ("l1", "l2", "linf", "lmix")
SUMMED = {
    "recons_loss": "reconstruction",
    "spectral_loss": "spectral",
    "multispectral_loss": "multispectral",
    "commit_loss": "commitment",
}
"""Figures that the reference adds up over levels, and ours."""
FINEST = {
    "spectral_convergence": "spectral_convergence",
    "l1_loss": "l1",
    "l2_loss": "l2",
    "linf_loss": "linf",
}
"""Figures that it gives of the finest level alone, and ours."""


def codec_rows(case: str, folder: Path, expected: Arrays) -> Iterator[Row]:
    """A converted codec against `codes_L`, `decoded_L`, and the losses of every kind."""
    codec = load_codec(folder)
    assert isinstance(codec, VQVAE)
    audio = torch.tensor(expected["audio"]).mT.contiguous()  # [B, C, T]
    codes = codec.encode(audio)
    computed: dict[str, tuple[Any, Tolerance]] = {}
    for level, name in enumerate(codec.config.stream_names):
        computed[f"codes_{level}"] = codes[name], EQUAL
        given = expected.get(f"codes_{level}", codes[name].numpy())
        decoded = codec.decode({name: torch.from_numpy(given)})
        computed[f"decoded_{level}"] = decoded.mT, ABSOLUTE
    if any(key.startswith(("loss_", "metric_")) for key in expected):
        for kind in KINDS:
            computed |= {k: (v, RELATIVE) for k, v in _losses(codec, kind, audio, expected).items()}
    yield from compare_all(case, computed, expected, {"audio", "linf_k", *BANDWIDTH})


def _losses(codec: VQVAE, kind: str, audio: Tensor, expected: Arrays) -> dict[str, Tensor]:
    """Loss and figures of the evaluation forward pass under the reference's names."""
    k = int(expected["linf_k"])
    codec.config = codec.config.model_copy(update={"reconstruction": kind, "linf_k": k})
    codec.set_bandwidth(Bandwidth(*(float(expected[name]) for name in BANDWIDTH)))
    with torch.inference_mode():
        loss, figures = codec.training_step(audio)
    streams = codec.config.stream_names
    named = {}
    for theirs, ours in SUMMED.items():
        of_level = [figures[f"{ours}/{stream}"] for stream in streams]
        named[theirs] = torch.stack(of_level).sum()
        if theirs != "commit_loss":
            named |= {f"{theirs}_l{level}": value for level, value in enumerate(of_level, start=1)}
    named |= {theirs: figures[f"{ours}/{streams[0]}"] for theirs, ours in FINEST.items()}
    return {f"loss_{kind}": loss, **{f"metric_{kind}_{name}": v for name, v in named.items()}}


def codebook_rows(case: str, expected: Arrays) -> Iterator[Row]:
    """One moving-average update of a codebook [K, D] without restarts."""
    before, count = torch.tensor(expected["codebook_before"]), float(expected["initial_count"])
    entries, width = before.shape
    quantizer = Quantizer(entries, width, float(expected["decay"]), restart_threshold=0.0).train()
    quantizer.codebook.copy_(before)
    quantizer.counts.fill_(count)
    quantizer.sums.copy_(before * count)
    quantizer.initialised.fill_(True)
    made = quantizer(torch.tensor(expected["encoder_out"]))
    computed = {
        "codes": (made.codes, EQUAL),
        "codebook_after": (quantizer.codebook, FINE),
        "commit_loss": (made.commitment, RELATIVE),
        "entropy": (made.metrics["codebook_entropy"], RELATIVE),
        "usage": ((quantizer.counts >= quantizer.restart_threshold).sum(), RELATIVE),
    }
    given = {"encoder_out", "codebook_before", "decay", "initial_count"}
    yield from compare_all(case, computed, expected, given)
