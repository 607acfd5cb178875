"""What the published codec and a prior must do at least: operations, and bytes that are read.

Counted on shapes, without computing anything; it knows no times. Shares of the machine's limits
rest on these, so what an implementation does beyond them (halos of tiles, folds, copies) lowers its
share. Attention and norms are left out: in the shapes measured here they are 1% of the operations.
"""

from functools import cache

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from codec.config import VQVAEConfig
from codec.vqvae import VQVAE, token_spec
from prior.config import PriorConfig
from prior.prior import Prior

SHAPES = {
    "large": {"width": 1024, "depth": 48, "heads": 4, "blocks": 128, "context": 8192},
    "tiny": {"width": 256, "depth": 8, "heads": 4, "blocks": 32, "context": 1024},
    "train": {"width": 512, "depth": 16, "heads": 4, "blocks": 32, "context": 2048},
}
"""Of priors: 162, 2.5 and 15 million parameters."""
CODEC = VQVAEConfig()
"""The published one."""


def prior_config(shape: str, **settings: int) -> PriorConfig:
    """A prior without conditioners over the coarsest published stream.

    Args:
        shape: a name of `SHAPES`.
        **settings: fields that replace the shape's.
    """
    given = {**SHAPES[shape], **settings}
    spec = token_spec(CODEC)
    return PriorConfig(spec=spec, stream="2", vocab_size=2048, res_scale=True, **given)


@cache
def encode_operations(level: int | None = None) -> float:
    """For a second of audio, one level or all."""
    levels = range(CODEC.levels) if level is None else [level]
    length = 1 << 20
    with torch.device("meta"):
        model, audio = VQVAE(CODEC), torch.empty(1, CODEC.channels, length)
    network = sum(_operations(model.encoders[i], audio) for i in levels)
    entries = 2 * CODEC.codebook_size * CODEC.codebook_width
    search = sum(length // CODEC.hops[i] * entries for i in levels)
    return (network + search) * CODEC.sample_rate / length


@cache
def decode_operations(level: int) -> float:
    """For a second of audio from one level."""
    hop, count = CODEC.hops[level], 1 << 13
    with torch.device("meta"):
        model, vectors = VQVAE(CODEC), torch.empty(1, CODEC.codebook_width, count)
    return _operations(model.decoders[level], vectors) * CODEC.sample_rate / (hop * count)


def _operations(module: nn.Module, x: torch.Tensor) -> float:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(x)
    return counter.get_total_flops()


def prior_operations(config: PriorConfig) -> float:
    """For a code: a multiplication and an addition with every weight."""
    layers, head = _weights(config)
    return 2 * (layers + head)


def prior_bytes(config: PriorConfig, layers: float = 4, head: float = 4) -> float:
    """Weights that are read for a step.

    Args:
        config: of the prior.
        layers: bytes of a weight of the layers.
        head: bytes of a weight of the output.
    """
    weights = _weights(config)
    return weights[0] * layers + weights[1] * head


def _weights(config: PriorConfig) -> tuple[int, int]:
    """Of the layers' matrices and of the output's."""
    with torch.device("meta"):
        prior = Prior(config)
    matrices = [p.numel() for p in prior.transformer.parameters() if p.ndim == 2]
    return sum(matrices), prior.embedding.weight.numel()
