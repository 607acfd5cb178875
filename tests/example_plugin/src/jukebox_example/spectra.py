"""Audio to mel cepstra, and cepstra back to audio. It knows no codebooks.

Shapes: B batch, T samples, N cepstra (T // hop), W coefficients of a cepstrum, as many as mel
bands, F frequencies, S spectra of the synthesis.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codec.config import Resolution
from codec.losses import norm, spectrogram

RESOLUTIONS = (Resolution(2048, 480, 2048), Resolution(1024, 240, 1024), Resolution(512, 120, 512))
QUIET = 1e-4
"""Power of a mel band, and magnitude of a frequency, below which nothing is told apart."""


class Analysis(nn.Module):
    """Audio to mel cepstra: the low coefficients say the shape of the mouth, the others pitch.

    Args:
        rate: samples per second.
        hop: samples for each cepstrum.
        window: samples that it is computed from.
        bands: W.
    """

    filters: Tensor  # [F, W]
    cosines: Tensor  # [W, W]

    def __init__(self, rate: int, hop: int, window: int, bands: int) -> None:
        super().__init__()
        self.hop, self.window = hop, window
        # They follow from the config, so they are no part of the weights.
        self.register_buffer("filters", mel_filters(bands, window, rate), persistent=False)
        self.register_buffer("cosines", cosines(bands), persistent=False)

    def forward(self, audio: Tensor) -> Tensor:
        """Cepstra around the middle of each hop, [B, 1, T] -> [B, W, N]."""
        count = audio.shape[-1] // self.hop
        if not count:  # not every library transforms nothing
            return audio.new_zeros(len(audio), self.filters.shape[1], 0)
        padded = F.pad(audio[:, 0], ((self.window - self.hop) // 2, self.window))
        frames = padded.unfold(1, self.window, self.hop)[:, :count]  # [B, N, window]
        hann = torch.hann_window(self.window, device=audio.device)
        power = torch.fft.rfft(frames * hann).abs().square()
        mel = (power @ self.filters + QUIET).log()
        return (mel @ self.cosines).mT


class Synthesis(nn.Module):
    """Cepstra to audio: convolutions make spectra with phases, an inverse transform the audio.

    After Vocos (Siuzdak 2023, arXiv 2306.00814): no upsampling to samples is learned.

    Args:
        bands: W.
        hop: samples for each cepstrum.
        own_hop: samples for each of the spectra that it makes; divides `hop`.
        width: channels.
        depth: residual convolutions at each of the two rates.
    """

    def __init__(self, bands: int, hop: int, own_hop: int, width: int, depth: int) -> None:
        super().__init__()
        self.hop, self.size, self.ratio = own_hop, 4 * own_hop, hop // own_hop
        self.into = nn.Conv1d(bands, width, 3, padding=1)
        self.coarse = nn.Sequential(*(Residual(width, 2**i) for i in range(depth)))
        self.finer = nn.Conv1d(width, self.ratio * width, 1)
        self.fine = nn.Sequential(*(Residual(width, 2**i) for i in range(depth)))
        self.out = nn.Conv1d(width, 2 * (self.size // 2 + 1), 1)
        self.register_buffer("hann", torch.hann_window(self.size), persistent=False)
        reach = 2**depth - 1
        self.reach = (1 + reach) * hop + reach * own_hop + self.size
        """Samples that it sees to one side."""

    def forward(self, cepstra: Tensor) -> Tensor:
        """[B, W, N] -> [B, 1, N x hop]."""
        x = self.finer(self.coarse(self.into(cepstra)))  # [B, ratio x width, N]
        x = x.unflatten(1, (-1, self.ratio)).permute(0, 1, 3, 2).flatten(2)  # [B, width, S]
        size, phase = self.out(self.fine(x)).float().chunk(2, 1)  # [B, F, S]
        spectra = torch.polar(size.clamp(max=8).exp(), phase)
        return self._overlapped(torch.fft.irfft(spectra.mT, self.size))[:, None]

    def _overlapped(self, frames: Tensor) -> Tensor:
        """Windowed frames [B, S, size] around the middle of each hop, added up: [B, S x hop]."""
        count, trim = frames.shape[1], (self.size - self.hop) // 2
        length = (count - 1) * self.hop + self.size

        def added(x: Tensor) -> Tensor:
            return F.fold(x, (1, length), (1, self.size), stride=(1, self.hop))[:, 0, 0]

        audio = added((frames * self.hann).mT)
        weight = added((self.hann.square().expand(1, count, -1)).mT)
        return (audio / weight.clamp(min=1e-3))[:, trim : trim + count * self.hop]


class Residual(nn.Module):
    """A dilated convolution of 3 and an MLP over channels, around which what came in goes on."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv1d(width, width, 3, padding=dilation, dilation=dilation),
            nn.GELU(),
            nn.Conv1d(width, width, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B, width, N] -> [B, width, N]."""
        return x + self.body(x)


def spectral_loss(target: Tensor, output: Tensor) -> Tensor:
    """Distance of spectra of audio [B, 1, T]: of magnitudes over their norm, and of logarithms."""
    total = target.new_zeros(())
    for resolution in RESOLUTIONS:
        a, b = spectrogram(target, resolution), spectrogram(output, resolution)
        total = total + norm(a - b).mean() / norm(a).mean().clamp(min=QUIET)
        total = total + ((a + QUIET).log() - (b + QUIET).log()).abs().mean()
    return total / len(RESOLUTIONS)


def mel_filters(bands: int, window: int, rate: int) -> Tensor:
    """Triangles that are even on the mel scale 2595 log10(1 + f / 700), [F, bands]."""
    top = 2595 * math.log10(1 + rate / 2 / 700)
    edges = 700 * (10 ** (torch.linspace(0, top, bands + 2, dtype=torch.float64) / 2595) - 1)
    hertz = torch.linspace(0, rate / 2, window // 2 + 1, dtype=torch.float64)[:, None]
    # Low bands are no narrower than the resolution, or some would hear nothing.
    low, middle, high = edges[:-2], edges[1:-1], edges[2:]
    rising = (hertz - low) / (middle - low).clamp(min=rate / window)
    falling = (high - hertz) / (high - middle).clamp(min=rate / window)
    triangles = torch.minimum(rising, falling).clamp(min=0)
    return (triangles / triangles.sum(0).clamp(min=1e-6)).float()


def cosines(size: int) -> Tensor:
    """The orthonormal cosine transform (DCT-II), [size, size], a coefficient a column."""
    places = torch.arange(size, dtype=torch.float64)
    table = torch.cos(math.pi / size * (places[:, None] + 0.5) * places) * math.sqrt(2 / size)
    table[:, 0] /= math.sqrt(2)
    return table.float()
