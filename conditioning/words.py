"""Times of words that nobody found, between those that somebody did; what all aligners share.

It knows neither audio nor codes, and no aligner.
"""

import itertools
from collections.abc import Sequence

import numpy as np

from conditioning.base import Word

NO_LYRICS = "it has no lyrics"
"""Why a track without any can't be aligned."""


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
