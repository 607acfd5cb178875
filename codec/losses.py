"""Losses of decoded audio against the original (paper section 3.3 and appendix B.1).

Functions of tensors; they know neither networks nor levels. Shapes: B batch, C channels,
T samples, F frequencies, M frames.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from codec.config import Resolution, VQVAEConfig
from plugins.ground.errors import InputError

STANDARD = Resolution(n_fft=2048, hop=256, window=1536)
"""Of the single-resolution spectral loss and of spectral convergence."""


@dataclass(frozen=True)
class Bandwidth:
    """How large a data set's signal is; losses are divided by it, so that weights carry over."""

    l1: float | Tensor = 1.0
    """Mean absolute sample."""
    l2: float | Tensor = 1.0
    """Variance of the samples."""
    spectrum: float | Tensor = 1.0
    """Mean over clips of the Frobenius norm of the `STANDARD` spectrogram."""


def measure_bandwidth(clips: Iterable[Tensor]) -> Bandwidth:
    """The bandwidth of clips [C, T], which should be as long as those trained on.

    Raises:
        InputError: no clips, or only silence.
    """
    count, total, absolute, square, norms = 0, 0.0, 0.0, 0.0, []
    for clip in clips:
        clip = clip.float()
        count += clip.numel()
        total += clip.sum().item()
        absolute += clip.abs().sum().item()
        square += clip.square().sum().item()
        norms.append(norm(spectrogram(clip[None], STANDARD)).item())
    variance = square / count - (total / count) ** 2 if count else 0.0
    if variance <= 1e-12:
        raise InputError("the audio to train on is silent or empty: choose other files")
    return Bandwidth(absolute / count, variance, sum(norms) / len(norms))


def spectrogram(audio: Tensor, resolution: Resolution) -> Tensor:
    """Magnitudes, [B, C, T] -> [B, C, F, M]; Hann window, centred; short audio gets silence."""
    audio = audio.float()
    lacking = resolution.n_fft // 2 + 1 - audio.shape[-1]
    if lacking > 0:
        audio = F.pad(audio, (0, lacking))
    spectra = torch.stft(
        audio.flatten(0, 1),
        resolution.n_fft,
        resolution.hop,
        resolution.window,
        torch.hann_window(resolution.window, device=audio.device),
        return_complex=True,
    )
    return spectra.abs().unflatten(0, audio.shape[:2])


def norm(x: Tensor) -> Tensor:
    """Euclidean norm of each item, [B, ...] -> [B]."""
    return torch.linalg.vector_norm(x.flatten(1), dim=1)


def l1(target: Tensor, output: Tensor, bandwidth: Bandwidth) -> Tensor:
    """Mean absolute error over the mean absolute sample."""
    return (output - target).abs().mean() / bandwidth.l1


def l2(target: Tensor, output: Tensor, bandwidth: Bandwidth) -> Tensor:
    """Mean squared error over the samples' variance."""
    return (output - target).square().mean() / bandwidth.l2


def linf(target: Tensor, output: Tensor, bandwidth: Bandwidth, k: int) -> Tensor:
    """Mean of each item's `k` largest squared errors over the samples' variance."""
    errors = (output - target).square().flatten(1)
    return errors.topk(min(k, errors.shape[1]), sorted=False).values.mean() / bandwidth.l2


def reconstruction(
    target: Tensor, output: Tensor, bandwidth: Bandwidth, config: VQVAEConfig
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss in samples that the config names, and each of its kinds by name.

    Args:
        target: [B, C, T] audio.
        output: [B, C, T] decoded audio.
        bandwidth: of the data set.
        config: says which kind, or how they are mixed.
    """
    kinds = {
        "l1": l1(target, output, bandwidth),
        "l2": l2(target, output, bandwidth),
        "linf": linf(target, output, bandwidth, config.linf_k),
    }
    if config.reconstruction != "lmix":
        return kinds[config.reconstruction], kinds
    mixed = config.lmix_l1 * kinds["l1"] + config.lmix_l2 * kinds["l2"]
    return mixed + config.lmix_linf * kinds["linf"], kinds


def spectral(target: Tensor, output: Tensor, bandwidth: Bandwidth) -> Tensor:
    """Mean Frobenius distance of spectrograms [B, C, F, M] over the data set's mean norm."""
    return norm(target - output).mean() / bandwidth.spectrum


def multispectral(
    target: Sequence[Tensor], output: Sequence[Tensor], bandwidth: Bandwidth
) -> Tensor:
    """Mean of `spectral` over resolutions."""
    pairs = zip(target, output, strict=True)
    return torch.stack([spectral(a, b, bandwidth) for a, b in pairs]).mean()
