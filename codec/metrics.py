"""How good a codec is, in figures: spectral convergence, codebook use, bit rate.

Functions of tensors and specs; they know no network. Shapes: B batch, C channels, T samples,
F frequencies, M frames, K entries of a codebook.
"""

import math
from collections.abc import Iterable
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


def spectral_convergence(stretches: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """||S| - |S'|| / ||S|| of audio in stretches; lower is better (paper section 5.2).

    Args:
        stretches: audio and decoded audio, [B, C, T] each, T free to vary. Spectra are those of a
            stretch, norms those of all of them.

    Returns:
        [B] float64 ratio, NaN where the audio is silent; `decibels` makes it the paper's figure.
    """
    lost = present = torch.zeros(1, dtype=torch.float64)
    for target, output in stretches:
        before, after = spectrogram(target, STANDARD), spectrogram(output, STANDARD)
        lost = lost + norm(before - after).cpu().double().square()
        present = present + norm(before).cpu().double().square()
    loudness = present.sqrt()
    return torch.where(loudness > SILENCE, lost.sqrt() / loudness, torch.nan)


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
