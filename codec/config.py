"""Settings of the VQ-VAE, its presets, and what follows from them by arithmetic. No torch import.

It knows shapes and numbers, not tensors.
"""

from itertools import accumulate
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, model_validator

ENGINES = ("auto", "eager", "native")
"""How networks may be computed; `codec.engine` says by what."""
EngineName = Literal["auto", "eager", "native"]


DEEPEST = 1024
"""Far beyond any model, but so few blocks that they can be outlined and compared with a file."""


class Resolution(NamedTuple):
    """One short-time Fourier transform; all in samples."""

    n_fft: int
    hop: int
    window: int


class ResidualConfig(BaseModel):
    """A stack of residual blocks between two changes of rate.

    Serves the levels of the VQ-VAE and the upsamplers' conditioner on the codes above.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    width: int = Field(ge=1)
    """Channels of every convolution."""
    depth: int = Field(ge=1, le=DEEPEST)
    """Residual blocks."""
    expansion: float = Field(1.0, gt=0)
    """Channels between the two convolutions of a block, over `width`."""
    dilation_growth: int = Field(3, ge=1)
    dilation_cycle: int | None = Field(None, ge=1)
    """Dilations start again at 1 after so many blocks; None: never."""
    mirrored: bool = False
    """Largest dilation first."""
    scaled: bool = False
    """Scale residual branches by 1/sqrt(depth)."""

    @property
    def hidden(self) -> int:
        """Channels between the two convolutions of a block."""
        return max(1, int(self.expansion * self.width))

    @property
    def dilations(self) -> tuple[int, ...]:
        """Of every block, in order."""
        cycle = self.dilation_cycle or self.depth
        rising = tuple(self.dilation_growth ** (block % cycle) for block in range(self.depth))
        return rising[::-1] if self.mirrored else rising


class VQVAEConfig(BaseModel):
    """A VQ-VAE of one or more levels, finest first (paper section 3, table 4)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sample_rate: int = Field(44100, ge=1)
    channels: int = Field(1, ge=1)
    halvings: tuple[int, ...] = Field((3, 2, 2), min_length=1)
    """What each level adds: level L halves the rate as often as the first L + 1 entries say."""
    codebook_size: int = Field(2048, ge=2, le=1 << 16)
    codebook_width: int = Field(64, ge=1)
    width: int = Field(32, ge=1)
    """Channels of a level, times its multiplier."""
    depth: int = Field(4, ge=1)
    """Residual blocks for each halving, times the level's multiplier."""
    multipliers: tuple[int, ...] = (2, 1, 1)
    expansion: float = Field(1.0, gt=0)
    """Channels between the two convolutions of a residual block, over the level's."""
    dilation_growth: int = Field(3, ge=1)
    dilation_cycle: int | None = Field(None, ge=1)
    mirror_dilation: bool = True
    """The decoder's dilations fall where the encoder's rise."""

    ema_decay: float = Field(0.99, ge=0, lt=1)
    """Of the running counts and sums that codebooks follow."""
    restart_threshold: float = Field(1.0, ge=0)
    """An entry whose running count falls under it restarts; 0: never."""
    commit_weight: float = Field(0.02, ge=0)
    reconstruction: Literal["l1", "l2", "linf", "lmix"] = "lmix"
    lmix_l1: float = Field(0.0, ge=0)
    lmix_l2: float = Field(1.0, ge=0)
    lmix_linf: float = Field(0.02, ge=0)
    linf_k: int = Field(2048, ge=1)
    """How many of a clip's largest errors "linf" looks at."""
    spectral_weight: float = Field(0.0, ge=0)
    multispectral_weight: float = Field(1.0, ge=0)
    resolutions: tuple[Resolution, ...] = Field(
        (Resolution(2048, 240, 1200), Resolution(1024, 120, 600), Resolution(512, 50, 240)),
        min_length=1,
    )
    """Of the multi-resolution spectral loss."""

    @model_validator(mode="after")
    def _levels_are_sound(self) -> "VQVAEConfig":
        if any(count < 1 for count in self.halvings):
            raise ValueError(f"each level must halve at least once, not halvings={self.halvings}")
        if sum(self.halvings) > 16:
            raise ValueError(f"at most 16 halvings in all, not halvings={self.halvings}")
        if len(self.multipliers) != self.levels or any(m < 1 for m in self.multipliers):
            raise ValueError(
                f"multipliers={self.multipliers} must be {self.levels} positive numbers, "
                f"one a level like halvings={self.halvings}"
            )
        if self.depth * max(self.multipliers) > DEEPEST:
            raise ValueError(
                f"depth={self.depth} times multipliers={self.multipliers} is more than {DEEPEST}"
            )
        return self

    @model_validator(mode="after")
    def _losses_are_sound(self) -> "VQVAEConfig":
        for r in self.resolutions:
            if not (1 <= r.hop <= r.window <= r.n_fft):
                raise ValueError(f"resolution {tuple(r)} must have 1 <= hop <= window <= n_fft")
        if self.reconstruction == "lmix" and not self.lmix_l1 + self.lmix_l2 + self.lmix_linf:
            raise ValueError("lmix needs a positive weight: lmix_l1, lmix_l2 or lmix_linf")
        return self

    @property
    def levels(self) -> int:
        """How many."""
        return len(self.halvings)

    @property
    def stream_names(self) -> tuple[str, ...]:
        """Levels by number, 0 the finest."""
        return tuple(str(level) for level in range(self.levels))

    @property
    def hops(self) -> tuple[int, ...]:
        """Audio samples for each code, by level."""
        return tuple(2**total for total in accumulate(self.halvings))

    def residual(self, level: int, *, decoder: bool) -> ResidualConfig:
        """The residual stacks of one level's encoder or decoder."""
        return ResidualConfig(
            width=self.width * self.multipliers[level],
            depth=self.depth * self.multipliers[level],
            expansion=self.expansion,
            dilation_growth=self.dilation_growth,
            dilation_cycle=self.dilation_cycle,
            mirrored=decoder and self.mirror_dilation,
        )

    def encoder_reach(self, level: int) -> int:
        """Samples that a level's encoder sees to one side of those that a code answers for.

        A code answers for `hop` samples; to both sides it sees equally far.
        """
        dilations = sum(self.residual(level, decoder=False).dilations)
        reach, spacing = 0, 1
        for count in self.halvings[: level + 1]:
            for _ in range(count):
                reach += spacing  # kernel 4, stride 2: one more at each end of a pair
                spacing *= 2
                reach += spacing * dilations
            reach += spacing  # the block's last convolution, kernel 3
        return reach

    def decoder_reach(self, level: int) -> int:
        """Samples that a level's decoder sees, as codes, to one side of those that it makes."""
        dilations = sum(self.residual(level, decoder=True).dilations)
        reach = 1  # walking back from the last convolution, kernel 3
        for count in self.halvings[: level + 1]:
            for _ in range(count):
                reach = reach // 2 + 1  # transposed, kernel 4, stride 2
                reach += dilations
            reach += 1  # the block's first convolution, kernel 3
        return reach * self.hops[level]

    @property
    def halo(self) -> int:
        """Samples to one side that any encoder or decoder sees: the exact receptive field."""
        levels = range(self.levels)
        return max(max(self.encoder_reach(i), self.decoder_reach(i)) for i in levels)


PRESETS: dict[str, dict[str, Any]] = {
    # The published codec (paper table 4): 44.1 kHz, 2 million parameters, 256 V100 for 3 days.
    "jukebox": {},
    # 22.05 kHz for one workstation GPU: hops of 8, 32 and 128 as published, half the network.
    "small": {
        "sample_rate": 22050,
        "codebook_size": 1024,
        "multipliers": (1, 1, 1),
    },
    # 22.05 kHz for two CPU cores: recognisable after minutes, made for trying things out. Spectra
    # overlap less than the published ones, since on a CPU they cost as much as the network.
    "tiny": {
        "sample_rate": 22050,
        "halvings": (5, 2),
        "codebook_size": 512,
        "codebook_width": 16,
        "width": 16,
        "depth": 1,
        "multipliers": (1, 1),
        "resolutions": ((2048, 512, 2048), (512, 128, 512), (128, 32, 128)),
    },
}
"""Settings by preset, over the defaults of `VQVAEConfig`."""
