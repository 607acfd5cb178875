"""Words of a text: their characters among the cleaned ones, and frames as their times.

It knows no attention.
"""

import re
from collections.abc import Sequence

import numpy as np

from conditioning.base import Word
from plugins.attention_aligner.path import Sung


def word_places(text: str, sources: Sequence[int]) -> list[tuple[int, int]]:
    """Of each word of a text, its characters among the cleaned ones: first, and behind the last."""
    return [
        (int(np.searchsorted(sources, word.start())), int(np.searchsorted(sources, word.end())))
        for word in re.finditer(r"\S+", text)
    ]


def timed_words(
    words: Sequence[str], sung: Sequence[Sung | None], seconds: float, length: float
) -> list[Word]:
    """Frames as times.

    Words that were passed over share the time between those around them; ahead of the first and
    behind the last that was found there is none to share, since nothing says when that begins.
    """
    known = [number for number, one in enumerate(sung) if one]
    timed = []
    for number, (text, one) in enumerate(zip(words, sung, strict=True)):
        if one:
            start, end = one.first * seconds, (one.last + 1) * seconds
        else:
            start, end = _between(number, known, sung, seconds)
        timed.append(
            Word(min(start, length), min(end, length), text, one.confidence if one else 0.0)
        )
    return timed


def _between(
    number: int, known: Sequence[int], sung: Sequence[Sung | None], seconds: float
) -> tuple[float, float]:
    """Start and end of a word that was passed over."""
    place = int(np.searchsorted(known, number))
    before = sung[known[place - 1]] if place else None
    after = sung[known[place]] if place < len(known) else None
    if before is None or after is None:
        edge = after.first if after else before.last + 1 if before else 0
        return edge * seconds, edge * seconds
    first, behind = known[place - 1] + 1, known[place]
    edges = np.linspace(before.last + 1, after.first, behind - first + 1) * seconds
    return float(edges[number - first]), float(edges[number - first + 1])
