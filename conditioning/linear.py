"""`linear`: words at one rate from the first sample to the last, the paper's straight line; and
how words that nobody found lie between those that somebody did.

It knows no audio and no codes.
"""

import itertools
import re
from collections.abc import Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from codec.tokens import TokenSpec
from conditioning.base import Aligner, Track, Word

NO_LYRICS = "it has no lyrics"


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


def filled(texts: Sequence[str], found: Sequence[Word | None]) -> list[Word]:
    """All words; those that were not found share the time between their neighbours that were, by
    their characters and with confidence 0.

    Ahead of the first and behind the last that was found there is no time to share, since nothing
    says when that begins.

    Args:
        texts: of all words.
        found: of each its times, or None; some have them.
    """
    words: list[Word] = []
    times = [one.start for one in found if one]
    for lost, group in itertools.groupby(found, key=lambda one: one is None):
        if not lost:
            words += [one for one in group if one]
            continue
        behind = len(words) + len(list(group))
        later = found[behind] if behind < len(found) else None
        start = words[-1].end if words else times[0]
        end = later.start if later else start
        words += spread(texts[len(words) : behind], min(start, end), end)
    return words


def spread(texts: Sequence[str], start: float, end: float) -> list[Word]:
    """Words that share a stretch of time by their characters, with confidence 0."""
    edges = np.cumsum([0, *(len(text) + 1 for text in texts)])
    times = (start + (end - start) * edges / max(1, edges[-1])).tolist()
    return [
        Word(before, after, text, 0.0)
        for text, before, after in zip(texts, times, times[1:], strict=False)
    ]
