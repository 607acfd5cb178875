"""The VQ-VAE of Jukebox: levels that code raw audio independently (paper section 3).

It knows encoders, codebooks and decoders; cutting long audio is `codec.base`'s. Shapes:
B batch, C channels, T samples, W codebook width, N codes of a level (T // hop).
"""

from collections.abc import Iterable, Mapping
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from codec import losses
from codec.base import Codec
from codec.config import PRESETS, VQVAEConfig
from codec.encdec import Decoder, Encoder
from codec.engine import NATIVE, engine_for
from codec.losses import STANDARD, Bandwidth, measure_bandwidth, spectrogram
from codec.metrics import convergence
from codec.quantize import Quantized, Quantizer
from codec.tiles import Tiling
from codec.tokens import TokenSpec, TokenStream
from plugins.ground.errors import InputError


class VQVAE(Codec):
    """Every level has its own encoder, codebook and decoder, from raw audio to raw audio."""

    Config = VQVAEConfig
    presets: ClassVar = PRESETS
    config: VQVAEConfig
    bandwidth: Tensor  # [3] l1, l2, spectrum of the data set trained on

    def __init__(self, config: VQVAEConfig) -> None:
        super().__init__()
        self.config = config
        self.spec = token_spec(config)
        shapes = [
            (config.channels, config.codebook_width, config.halvings[: level + 1])
            for level in range(config.levels)
        ]
        self.encoders = nn.ModuleList(
            Encoder(*shape, config.residual(i, decoder=False)) for i, shape in enumerate(shapes)
        )
        self.quantizers = nn.ModuleList(
            Quantizer(
                config.codebook_size,
                config.codebook_width,
                config.ema_decay,
                config.restart_threshold,
            )
            for _ in shapes
        )
        self.decoders = nn.ModuleList(
            Decoder(*shape, config.residual(i, decoder=True)) for i, shape in enumerate(shapes)
        )
        self.register_buffer("bandwidth", torch.ones(3))
        self.engine = "auto"

    def use_engine(self, name: str) -> None:
        """See `Codec`: "auto", "eager" or "native"."""
        for network in (self.encoders, self.decoders):
            engine_for(name, network)
        self.engine = name

    @property
    def any_threads(self) -> bool:
        """See `Codec`: what is computed in C++ is."""
        with torch.inference_mode():
            return engine_for(self.engine, self.encoders) is NATIVE

    @property
    def tiling(self) -> Tiling:
        """Long enough that the halo costs little."""
        return Tiling.fit(self.config.halo, self.spec.coarsest_hop)

    def encode_tile(self, audio: Tensor) -> dict[str, Tensor]:
        """Audio [1, C, T] -> {level: [1, T // hop]}."""
        engine, codes = engine_for(self.engine, self.encoders), {}
        for level, stream in enumerate(self.spec.streams):
            if audio.shape[-1] < stream.hop_length:
                codes[stream.name] = torch.zeros(1, 0, dtype=torch.long, device=audio.device)
            else:
                vectors = engine.run(self.encoders[level], audio)
                codes[stream.name] = self._quantizer(level).encode(vectors, engine.find)
        return codes

    def decode_tile(self, codes: Mapping[str, Tensor]) -> Tensor:
        """{level: [1, N]} -> [1, C, N x hop], from the finest level given."""
        level = next(i for i, stream in enumerate(self.spec.streams) if stream.name in codes)
        name = self.spec.streams[level].name
        engine = engine_for(self.engine, self.decoders)
        return engine.run(self.decoders[level], self.embed(codes[name], name))

    def embed(self, codes: Tensor, stream: str) -> Tensor:
        """Codebook entries of a level's codes, [B, N] -> [B, W, N]."""
        return self._quantizer(self.config.stream_names.index(stream)).lookup(codes)

    def _quantizer(self, level: int) -> Quantizer:
        return cast(Quantizer, self.quantizers[level])

    def training_step(self, audio: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss summed over levels, and figures named "<figure>/<level>".

        In training mode codebooks move; in evaluation mode nothing changes.

        Args:
            audio: [B, C, T]; what lies past the last whole code of the coarsest level is left out.

        Raises:
            InputError: clips shorter than one code.
        """
        hop = self.spec.coarsest_hop
        if audio.shape[-1] < hop:
            raise InputError(f"clips of {audio.shape[-1]} samples are shorter than a code ({hop})")
        audio = audio[..., : audio.shape[-1] // hop * hop]
        spectra = [spectrogram(audio, r) for r in (STANDARD, *self.config.resolutions)]
        loss = audio.new_zeros((), dtype=torch.float32)
        figures: dict[str, Tensor] = {}
        for level, name in enumerate(self.config.stream_names):
            part, named = self._level_step(level, audio, spectra)
            loss = loss + part
            figures |= {f"{figure}/{name}": value.detach() for figure, value in named.items()}
        return loss, figures

    def _level_step(
        self, level: int, audio: Tensor, spectra: list[Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss and figures of one level; `spectra` are the audio's, the standard one first."""
        config = self.config
        quantized: Quantized = self._quantizer(level)(self.encoders[level](audio))
        output = self.decoders[level](quantized.vectors).float()
        bandwidth = Bandwidth(*self.bandwidth)
        reconstruction, kinds = losses.reconstruction(audio, output, bandwidth, config)
        outputs = [spectrogram(output, r) for r in config.resolutions]
        multispectral = losses.multispectral(spectra[1:], outputs, bandwidth)
        with torch.set_grad_enabled(torch.is_grad_enabled() and config.spectral_weight > 0):
            standard = spectrogram(output, STANDARD)
            spectral = losses.spectral(spectra[0], standard, bandwidth)
        loss = (
            reconstruction
            + config.spectral_weight * spectral
            + config.multispectral_weight * multispectral
            + config.commit_weight * quantized.commitment
        )
        return loss, {
            "reconstruction": reconstruction,
            **kinds,
            "spectral": spectral,
            "multispectral": multispectral,
            "commitment": quantized.commitment,
            "spectral_convergence": convergence(spectra[0], standard).mean(),
            **quantized.metrics,
        }

    def prepare_training(self, clips: Iterable[Tensor]) -> None:
        """Measure the bandwidth of the training set on some of its clips [C, T]."""
        self.set_bandwidth(measure_bandwidth(clips))

    def set_bandwidth(self, bandwidth: Bandwidth) -> None:
        """What losses are divided by; kept with the weights."""
        values = [float(bandwidth.l1), float(bandwidth.l2), float(bandwidth.spectrum)]
        self.bandwidth.copy_(torch.tensor(values))


def token_spec(config: VQVAEConfig) -> TokenSpec:
    """The streams of that config, a level each; without a fingerprint."""
    return TokenSpec(
        sample_rate=config.sample_rate,
        channels=config.channels,
        streams=tuple(
            TokenStream(name=name, vocab_size=config.codebook_size, hop_length=hop)
            for name, hop in zip(config.stream_names, config.hops, strict=True)
        ),
        codec="vqvae",
        fingerprint="",
    )
