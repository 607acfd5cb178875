"""Where in its track a window lies, as positions (paper section 4.2).

It knows lengths in audio samples, not codes. Shapes: B batch, T code positions, D width.
"""

from collections.abc import Mapping

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from conditioning.base import Condition, Conditioner, Provides, Site, Track, Window

EMBEDDING_STD = 0.01


class TimingConfig(BaseModel):
    """How time is cut into bins."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bins: int = Field(64, ge=1)
    """Rows of each of the three tables."""
    total_seconds: tuple[float, float] = (17.84, 600.0)
    """The lengths of a track that are told apart; shorter and longer ones are clamped."""
    absolute_seconds: tuple[float, float] = (0.0, 600.0)
    """The positions in a track that are told apart."""

    @model_validator(mode="after")
    def _ranges_are_sound(self) -> "TimingConfig":
        for name in ("total_seconds", "absolute_seconds"):
            low, high = getattr(self, name)
            if not 0 <= low < high:
                raise ValueError(f"{name} must be a range of seconds, lower end first")
        return self


class Timing(Conditioner):
    """Total length, absolute position and relative position, each a table of bins; summed.

    The total length is one vector for the whole window; position i of T lies at
    start + (end - start) x i / T of the track.
    """

    Config = TimingConfig
    reads = ()
    config: TimingConfig

    def __init__(self, config: TimingConfig, site: Site) -> None:
        super().__init__(config, site)
        self.total = _table(config.bins, site.width)
        self.absolute = _table(config.bins, site.width)
        self.relative = _table(config.bins, site.width)

    @property
    def provides(self) -> Provides:
        """Positions."""
        return Provides(position=True)

    def prepare(
        self, track: Track, window: Window, rng: np.random.Generator | None = None
    ) -> dict[str, Tensor]:
        """`total` of the track, `start` and `end` of the window, in samples: [] int64 each."""
        hop = self.site.stream.hop_length
        end = window.start + self.site.context
        samples = {"total": window.total, "start": window.start * hop, "end": end * hop}
        return {name: torch.tensor(value, dtype=torch.int64) for name, value in samples.items()}

    def forward(self, batch: Mapping[str, Tensor]) -> Condition:
        """Samples [B] each -> position [B, T, D]."""
        total, absolute, relative = self.bins(batch)
        return Condition(
            position=self.total(total) + self.absolute(absolute) + self.relative(relative)
        )

    def bins(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """The bins of total length [B, 1], absolute and relative position [B, T]; int64.

        Computed in float32 whatever the model's type, since bins must not move with it. Published
        models clamp the window's relative end before they interpolate, so do these bins.
        """
        total, start, end = (
            batch[name].float().unsqueeze(-1) for name in ("total", "start", "end")
        )
        whole = total.clamp(min=1)
        relative = self._interpolate(start / whole, (end / whole).clamp(max=1))
        return (
            self._bin(total, self._samples(self.config.total_seconds)),
            self._bin(self._interpolate(start, end), self._samples(self.config.absolute_seconds)),
            self._bin(relative, (0.0, 1.0)),
        )

    def _samples(self, seconds: tuple[float, float]) -> tuple[float, float]:
        return seconds[0] * self.site.sample_rate, seconds[1] * self.site.sample_rate

    def _interpolate(self, start: Tensor, end: Tensor) -> Tensor:
        """From start [B, 1] towards end [B, 1] in T steps: [B, T]."""
        steps = torch.arange(self.site.context, dtype=torch.float32, device=start.device)
        return start + (end - start) * (steps / self.site.context)

    def _bin(self, value: Tensor, bounds: tuple[float, float]) -> Tensor:
        """The bin of each value in [low, high); values outside count into the outermost bins."""
        low, high = bounds
        share = (value - low) / (high - low)
        return (share * self.config.bins).floor().long().clamp(0, self.config.bins - 1)


def _table(rows: int, width: int) -> nn.Embedding:
    table = nn.Embedding(rows, width)
    nn.init.normal_(table.weight, std=EMBEDDING_STD)
    return table
