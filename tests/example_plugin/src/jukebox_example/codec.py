"""`rvq`: a residual VQ of mel cepstra, several codebooks at one rate.

Residual vector quantisation after Zeghidour et al. 2021 (SoundStream, arXiv 2107.03312, section
III-C): every stage codes what the stages before it left over. What is coded are mel cepstra, in
which a few numbers say the shape of the mouth and the others say pitch and texture. The first
stage hears the former alone, so its codes are close to phones, which lyrics predict. It knows
codebooks, not how long audio is cut. Shapes: B batch, T samples, N codes (T // hop), W
coefficients of a cepstrum, P vectors of D numbers.
"""

from collections.abc import Iterable, Mapping
from typing import cast

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from codec.base import Codec
from codec.losses import STANDARD, spectrogram
from codec.metrics import convergence
from codec.quantize import Quantizer, nearest
from codec.tiles import Tiling
from codec.tokens import TokenSpec, TokenStream
from jukebox_example.spectra import Analysis, Synthesis, spectral_loss
from plugins.ground.errors import InputError


class RVQConfig(BaseModel):
    """A residual VQ: analysis, codebooks and synthesis."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sample_rate: int = Field(16000, ge=1)
    hop: int = Field(640, ge=1)
    """Samples per code, of every stage."""
    window: int = Field(1024, ge=1)
    """Samples that a cepstrum is computed from, around the middle of its code's."""
    bands: int = Field(64, ge=1)
    """W, mel bands."""
    envelope: int = Field(14, ge=1)
    """Coefficients of a cepstrum that the first stage codes."""
    codebook_sizes: tuple[int, ...] = Field((128, 256, 256, 256), min_length=1)
    """Of the stages, the first stage first."""
    ema_decay: float = Field(0.99, gt=0, lt=1)
    restart_threshold: float = Field(0.2, ge=0)
    width: int = Field(192, ge=1)
    """Channels of the decoder."""
    depth: int = Field(3, ge=1)
    """Residual convolutions of the decoder at each of its two rates."""
    synthesis_hop: int = Field(160, ge=1)
    """Samples between two frames that the decoder makes."""

    @model_validator(mode="after")
    def _sizes_fit(self) -> "RVQConfig":
        if self.hop % self.synthesis_hop:
            raise ValueError(f"hop {self.hop} is no multiple of synthesis_hop {self.synthesis_hop}")
        if self.envelope > self.bands:
            raise ValueError(f"an envelope of {self.envelope} coefficients, but {self.bands} bands")
        if self.window < self.hop:
            raise ValueError(f"a window of {self.window} leaves out samples: hop is {self.hop}")
        return self


class ResidualVQ(Codec):
    """Mel cepstra -> codebooks one after the other -> convolutions -> spectra -> audio."""

    Config = RVQConfig
    config: RVQConfig
    mean: Tensor  # [W] of the cepstra of the data set trained on
    spread: Tensor  # [W] square root of their standard deviation

    def __init__(self, config: RVQConfig) -> None:
        super().__init__()
        self.config = config
        self.spec = TokenSpec(
            sample_rate=config.sample_rate,
            channels=1,
            streams=tuple(
                TokenStream(name=f"stage{i + 1}", vocab_size=size, hop_length=config.hop)
                for i, size in reversed([*enumerate(config.codebook_sizes)])
            ),
            codec="rvq",
            fingerprint="",
        )
        self.quantizers = nn.ModuleList(
            Quantizer(
                size,
                config.bands if stage else config.envelope,
                config.ema_decay,
                config.restart_threshold,
            )
            for stage, size in enumerate(config.codebook_sizes)
        )
        self.analysis = Analysis(config.sample_rate, config.hop, config.window, config.bands)
        self.decoder = Synthesis(
            config.bands, config.hop, config.synthesis_hop, config.width, config.depth
        )
        self.register_buffer("mean", torch.zeros(config.bands))
        self.register_buffer("spread", torch.ones(config.bands))

    @property
    def tiling(self) -> Tiling:
        """Both the analysis window and the decoder are seen whole."""
        reach = max(self.config.window - self.config.hop, self.decoder.reach)
        return Tiling.fit(reach, self.config.hop)

    def _quantizer(self, stage: int) -> Quantizer:
        return cast(Quantizer, self.quantizers[stage])

    def _levelled(self, audio: Tensor) -> Tensor:
        """Cepstra without mean, the widest coefficients narrowed most, [B, W, N]."""
        return (self.analysis(audio) - self.mean[:, None]) / self.spread[:, None]

    def _entries(self, stage: int, codes: Tensor) -> Tensor:
        """What a stage's codes stand for, [B, N] -> [B, W, N]."""
        entries = self._quantizer(stage).lookup(codes)
        return F.pad(entries, (0, 0, 0, self.config.bands - entries.shape[1]))

    def _heard(self, stage: int, rest: Tensor) -> Tensor:
        """What a stage codes of what is left, [B, W, N]."""
        return rest if stage else rest[:, : self.config.envelope]

    def encode_tile(self, audio: Tensor) -> dict[str, Tensor]:
        """Audio [1, 1, T] -> {stage: [1, T // hop]}."""
        rest = self._levelled(audio)
        codes = []
        for stage in range(len(self.quantizers)):
            codes.append(self._quantizer(stage).encode(self._heard(stage, rest)))
            rest = rest - self._entries(stage, codes[-1])
        return {f"stage{i + 1}": codes[i] for i in reversed(range(len(codes)))}

    def decode_tile(self, codes: Mapping[str, Tensor]) -> Tensor:
        """{stage: [1, N]} -> [1, 1, N x hop], from the first stage and those that refine it.

        Raises:
            InputError: a stage without those before it, or stages of unlike length.
        """
        held = [f"stage{i + 1}" for i in range(len(codes))]
        if sorted(codes) != sorted(held):
            raise InputError(
                f"rvq decodes a stage along with all stages before it, not {', '.join(codes)} alone"
            )
        if len({stream.shape[-1] for stream in codes.values()}) > 1:
            raise InputError("rvq decodes stages of one length")
        return self.decoder(self._sum([codes[name] for name in held]))

    def _sum(self, codes: list[Tensor]) -> Tensor:
        """The cepstra, levelled, that the first stages' codes stand for, [B, W, N]."""
        parts = [self._entries(stage, own) for stage, own in enumerate(codes)]
        return torch.stack(parts).sum(0)

    def prepare_training(self, clips: Iterable[Tensor]) -> None:
        """Level the cepstra of some clips [1, T] and put each codebook at the centres of clusters.

        Raises:
            InputError: the clips are silent.
        """
        device = self.device
        cepstra = torch.cat([self.analysis(clip[None].to(device))[0] for clip in clips], 1)
        self.mean.copy_(cepstra.mean(1))
        self.spread.copy_(cepstra.std(1).clamp(min=1e-3).sqrt())
        if float(cepstra.std(1).max()) < 1e-2:
            raise InputError("the audio to train on is silent: choose other files")
        rest = ((cepstra - self.mean[:, None]) / self.spread[:, None])[None]
        for stage in range(len(self.quantizers)):
            quantizer, heard = self._quantizer(stage), self._heard(stage, rest)
            centres, counts = clusters(heard[0].mT, len(quantizer.codebook))
            quantizer.codebook.copy_(centres)
            quantizer.counts.copy_(counts)
            quantizer.sums.copy_(centres * counts[:, None])
            quantizer.initialised.fill_(True)
            rest = rest - self._entries(stage, quantizer.encode(heard))

    def training_step(self, audio: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of audio [B, 1, T] decoded from the first stages, how many being drawn, and
        figures named "<figure>/<stage>".

        All stages serve in evaluation, and each is judged along with those before it.
        """
        audio = audio[..., : audio.shape[-1] // self.config.hop * self.config.hop]
        rest = self._levelled(audio)
        codes, figures = [], {}
        for stage in range(len(self.quantizers)):
            quantized = self._quantizer(stage)(self._heard(stage, rest))
            codes.append(quantized.codes)
            rest = rest - self._entries(stage, quantized.codes)
            figures[f"left_over/stage{stage + 1}"] = rest.square().mean()
            for name, value in quantized.metrics.items():
                figures[f"{name}/stage{stage + 1}"] = value
        count = len(codes)
        if self.training:  # so that it can do without the later ones
            count = int(torch.randint(1, count + 1, ()))
        output = self.decoder(self._sum(codes[:count]))
        loss = spectral_loss(audio, output)
        figures["spectral"] = loss
        if not self.training:
            for stage in range(len(codes)):
                heard = self.decoder(self._sum(codes[: stage + 1]))
                ratio = convergence(spectrogram(audio, STANDARD), spectrogram(heard, STANDARD))
                figures[f"spectral_convergence/stage{stage + 1}"] = ratio.mean()
        return loss, {name: value.detach().float() for name, value in figures.items()}


def clusters(vectors: Tensor, count: int, rounds: int = 20) -> tuple[Tensor, Tensor]:
    """k-means: centres [count, D] of vectors [P, D], and how many went to each [count].

    An empty cluster starts again at a vector drawn at random.
    """
    drawn = torch.randperm(len(vectors)).repeat(-(-count // len(vectors)))[:count]
    centres = vectors[drawn.to(vectors.device)].clone()
    for _ in range(rounds):
        nearest_ = nearest(vectors, centres)
        counts = torch.bincount(nearest_, minlength=count).to(vectors.dtype)
        sums = torch.zeros_like(centres).index_add_(0, nearest_, vectors)
        again = vectors[torch.randint(len(vectors), (count,)).to(vectors.device)]
        full = counts[:, None] > 0
        centres = torch.where(full, sums / counts.clamp(min=1)[:, None], again)
    return centres, counts
