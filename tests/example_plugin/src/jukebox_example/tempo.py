"""`tempo`: how fast a track is, as a start: a learned vector for each of some tempi.

Tempo is heard by ratio, so the bins are logarithmic. It reads the column `tempo` of a corpus, beats
per minute as a number or as text. Shapes: B batch, D width of the prior.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from conditioning.base import Condition, Conditioner, Provides, Site, Track, Window
from plugins.ground.errors import InputError

UNKNOWN = 0
EMBEDDING_STD = 0.01


class TempoConfig(BaseModel):
    """Which tempi are told apart, and how finely."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    slowest: float = Field(40.0, gt=0)
    """Beats per minute; anything slower counts as this."""
    fastest: float = Field(240.0, gt=0)
    """Beats per minute; anything faster counts as this."""
    bins: int = Field(32, ge=1)
    dropout: float = Field(0.1, ge=0, le=1)
    """How often training takes the tempo for unknown."""

    @model_validator(mode="after")
    def _range_is_sound(self) -> "TempoConfig":
        if self.slowest >= self.fastest:
            raise ValueError(f"slowest is {self.slowest}, which must be below {self.fastest}")
        return self


class Tempo(Conditioner):
    """A row of a table by the tempo's bin; another row if it is not known."""

    Config = TempoConfig
    reads = ("tempo",)
    config: TempoConfig

    def __init__(self, config: TempoConfig, site: Site) -> None:
        super().__init__(config, site)
        self.table = nn.Embedding(config.bins + 1, site.width)
        nn.init.normal_(self.table.weight, std=EMBEDDING_STD)

    @property
    def provides(self) -> Provides:
        """A start."""
        return Provides(start=True)

    def prepare(
        self, track: Track, window: Window, rng: np.random.Generator | None = None
    ) -> dict[str, Tensor]:
        """{"bin": row of the table, [] int64}; what is no positive number is unknown."""
        dropped = rng is not None and rng.random() < self.config.dropout
        tempo = None if dropped else beats_per_minute(track.get("tempo"))
        return {"bin": torch.tensor(UNKNOWN if tempo is None else self.row(tempo))}

    def forward(self, batch: Mapping[str, Tensor]) -> Condition:
        """Rows [B] -> start [B, 1, D]."""
        return Condition(start=self.table(batch["bin"])[:, None])

    def check(self, track: Track) -> None:
        """See `Conditioner`: a tempo must be a positive number."""
        given = track.get("tempo")
        if given is not None and beats_per_minute(given) is None:
            raise InputError(f"tempo {given!r} is no number above 0: give beats per minute")

    def row(self, tempo: float) -> int:
        """The row of the table for some beats per minute."""
        config = self.config
        place = math.log(tempo / config.slowest) / math.log(config.fastest / config.slowest)
        return 1 + min(max(math.floor(place * config.bins), 0), config.bins - 1)


def beats_per_minute(given: Any) -> float | None:
    """A tempo as metadata has it; None if there is none."""
    try:
        tempo = float(given)
    except (TypeError, ValueError):
        return None
    return tempo if 0 < tempo < math.inf else None
