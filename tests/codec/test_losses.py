"""Losses against their definitions, written again in numpy."""

import numpy as np
import pytest
import torch

from codec import losses
from codec.config import Resolution, VQVAEConfig
from codec.losses import STANDARD, Bandwidth, measure_bandwidth, norm, spectrogram
from plugins.ground.errors import InputError

BANDWIDTH = Bandwidth(0.2, 0.1, 80.0)


def chord(samples: int = 8000, items: int = 2, channels: int = 1) -> torch.Tensor:
    """Tones with some noise, [B, C, T]."""
    rng = np.random.default_rng(5)
    t = np.arange(samples) / 22050
    notes = rng.uniform(100, 3000, (items, channels, 4, 1))
    audio = np.sin(2 * np.pi * notes * t).mean(2) + 0.05 * rng.standard_normal((1, 1, samples))
    return torch.from_numpy(audio.astype(np.float32))


def noisy(audio: torch.Tensor) -> torch.Tensor:
    torch.manual_seed(1)
    return audio + 0.1 * torch.randn_like(audio)


@pytest.mark.parametrize("resolution", [STANDARD, Resolution(512, 50, 240), Resolution(64, 16, 64)])
def test_a_spectrogram_is_the_windowed_fourier_transform(resolution):
    audio = chord(3000, channels=2)
    n_fft, hop, window = resolution
    got = spectrogram(audio, resolution)
    wave = np.pad(audio[1, 1].double().numpy(), n_fft // 2, mode="reflect")
    hann = np.zeros(n_fft)
    at = (n_fft - window) // 2
    hann[at : at + window] = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
    frames = [wave[i : i + n_fft] * hann for i in range(0, len(wave) - n_fft + 1, hop)]
    expected = np.abs(np.fft.rfft(np.stack(frames))).T
    assert got.shape == (2, 2, n_fft // 2 + 1, 1 + 3000 // hop)
    np.testing.assert_allclose(got[1, 1].numpy(), expected, atol=2e-3)


def test_audio_shorter_than_a_window_is_followed_by_silence():
    short = chord(300)
    padded = torch.nn.functional.pad(short, (0, 1025 - 300))
    assert torch.equal(spectrogram(short, STANDARD), spectrogram(padded, STANDARD))


def test_losses_in_samples_are_their_definitions():
    target = chord()
    output = noisy(target)
    error = (output - target).double().numpy()
    squares = np.sort(error**2, axis=None).reshape(-1)
    assert losses.l1(target, output, BANDWIDTH).item() == pytest.approx(np.abs(error).mean() / 0.2)
    assert losses.l2(target, output, BANDWIDTH).item() == pytest.approx(squares.mean() / 0.1)
    largest = np.sort(error.reshape(2, -1) ** 2, axis=1)[:, -100:]
    linf = losses.linf(target, output, BANDWIDTH, 100).item()
    assert linf == pytest.approx(largest.mean() / 0.1)
    everything = losses.linf(target, output, BANDWIDTH, 10**9)
    torch.testing.assert_close(everything, losses.l2(target, output, BANDWIDTH))


@pytest.mark.parametrize("kind", ["l1", "l2", "linf", "lmix"])
def test_the_config_chooses_and_mixes(kind):
    config = VQVAEConfig(reconstruction=kind, lmix_l1=0.3, lmix_l2=2.0, lmix_linf=0.5, linf_k=50)
    target = chord()
    loss, kinds = losses.reconstruction(target, noisy(target), BANDWIDTH, config)
    weights = {"l1": 0.3, "l2": 2.0, "linf": 0.5} if kind == "lmix" else {kind: 1.0}
    expected = sum(weight * kinds[name] for name, weight in weights.items())
    torch.testing.assert_close(loss, expected)


def test_spectral_losses_are_mean_distances_over_the_bandwidth():
    target = chord()
    output = noisy(target)
    resolutions = VQVAEConfig().resolutions
    a = [spectrogram(target, r) for r in resolutions]
    b = [spectrogram(output, r) for r in resolutions]
    each = [
        np.mean([np.linalg.norm((x - y)[i, 0].double().numpy()) for i in range(2)]) / 80
        for x, y in zip(a, b, strict=True)
    ]
    assert losses.spectral(a[0], b[0], BANDWIDTH).item() == pytest.approx(each[0], rel=1e-5)
    assert losses.multispectral(a, b, BANDWIDTH).item() == pytest.approx(np.mean(each), rel=1e-5)


@pytest.mark.parametrize("silent", [False, True])
def test_a_perfect_copy_has_no_loss_and_a_finite_gradient(silent):
    target = torch.zeros(1, 1, 4000) if silent else chord(items=1)
    output = target.clone().requires_grad_()
    spectra = spectrogram(target, STANDARD), spectrogram(output, STANDARD)
    loss, _ = losses.reconstruction(target, output, BANDWIDTH, VQVAEConfig())
    total = loss + losses.spectral(*spectra, BANDWIDTH)
    total.backward()
    assert total.item() == 0
    assert output.grad.isfinite().all()


def test_bandwidth_is_measured_over_all_clips():
    clips = chord(6000, items=5) * torch.arange(1.0, 6.0)[:, None, None] / 5 + 0.1
    got = measure_bandwidth(clips)
    samples = clips.double().numpy()
    assert got.l1 == pytest.approx(np.abs(samples).mean(), rel=1e-5)
    assert got.l2 == pytest.approx(samples.var(), rel=1e-4)
    assert got.spectrum == pytest.approx(norm(spectrogram(clips, STANDARD)).mean().item(), rel=1e-5)


@pytest.mark.parametrize("clips", [[], [torch.zeros(1, 3000)]])
def test_silence_has_no_bandwidth(clips):
    with pytest.raises(InputError, match="silent or empty"):
        measure_bandwidth(clips)
