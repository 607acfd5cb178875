"""`linear`: words at one rate from the first sample to the last, the paper's straight line.

It knows no audio and no codes.
"""

import re

from pydantic import BaseModel, ConfigDict, Field

from codec.tokens import TokenSpec
from conditioning.base import Aligner, Track, Word
from conditioning.words import NO_LYRICS


class LinearConfig(BaseModel):
    """How long the song is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    total_seconds: float | None = Field(None, gt=0)
    """Length of the whole song where the track is its beginning; None: the track's own."""


class LinearAligner(Aligner):
    """As if all characters were sung at one rate (paper section 4.3): what windows of lyrics go by
    where nothing better is known. Confidence is 0, since nothing is looked for.
    """

    Config = LinearConfig
    config: LinearConfig

    def align(self, track: Track, spec: TokenSpec) -> list[Word] | str:
        """See `Aligner`."""
        text = str(track.get("lyrics") or "")
        if not text.strip():
            return NO_LYRICS
        length = track["num_samples"] / spec.sample_rate
        if length <= 0:
            return "its length is not known"
        pace = max(length, self.config.total_seconds or 0) / len(text)  # seconds per character
        return [
            Word(min(start * pace, length), min(end * pace, length), text[start:end], 0.0)
            for start, end in (word.span() for word in re.finditer(r"\S+", text))
        ]
