"""How good a codec is, in figures: spectral convergence, codebook use, bit rate.

Functions of tensors and specs; they know no network. Shapes: B batch, C channels, T samples,
F frequencies, M frames, K entries of a codebook.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from codec.losses import STANDARD, norm, spectrogram
from codec.tokens import TokenSpec

SILENCE = 2e-3
"""Spectrograms of a smaller norm count as silence."""


def convergence(target: Tensor, output: Tensor) -> Tensor:
    """Spectral convergence of spectrograms [B, C, F, M] -> [B]; 0 where the target is silent."""
    loudness = norm(target)
    ratio = norm(target - output) / loudness.clamp(min=SILENCE)
    return torch.where(loudness > SILENCE, ratio, torch.zeros_like(ratio))


def spectral_convergence(target: Tensor, output: Tensor) -> Tensor:
    """||S| - |S'|| / ||S||, lower is better (paper section 5.2, there in decibels).

    Args:
        target: audio [B, C, T].
        output: decoded audio [B, C, T].

    Returns:
        [B] ratio for each item; `decibels` makes it the paper's figure.
    """
    return convergence(spectrogram(target, STANDARD), spectrogram(output, STANDARD))


def decibels(ratio: Tensor) -> Tensor:
    """20 log10 of a ratio of amplitudes."""
    return 20 * torch.log10(ratio.clamp(min=1e-10))


@dataclass(frozen=True)
class CodebookUse:
    """How evenly codes use their codebook."""

    used: Tensor  # [] entries that occur at all
    entropy: Tensor  # [] of the entries' frequencies, in nats
    perplexity: Tensor  # [] exp(entropy): equally frequent entries that would be as even


def codebook_use(counts: Tensor) -> CodebookUse:
    """Codebook use of how often each entry occurred, [K]."""
    frequencies = counts / counts.sum().clamp(min=1)
    entropy = -(frequencies * torch.log(frequencies + 1e-8)).sum()
    return CodebookUse((counts > 0).sum(), entropy, entropy.exp())


def count_codes(codes: Tensor, size: int) -> Tensor:
    """How often each entry occurs, integers of any shape -> [K] float32."""
    counts = torch.zeros(size, device=codes.device)
    return counts.index_add_(
        0, codes.flatten(), torch.ones_like(codes.flatten(), dtype=counts.dtype)
    )


def bits_per_second(spec: TokenSpec, stream: str, entropy: float | None = None) -> float:
    """Bit rate of a stream.

    Args:
        spec: of the codec.
        stream: its name.
        entropy: nats a code; None: all entries equally likely, what plain storage takes.

    Raises:
        InputError: no such stream.
    """
    if entropy is None:
        entropy = math.log(spec.stream(stream).vocab_size)
    return spec.rate(stream) * entropy / math.log(2)
