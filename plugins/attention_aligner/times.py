"""Words of a text: their characters among the cleaned ones, and frames as their times.

It knows no attention.
"""

import re
from collections.abc import Sequence

import numpy as np

from conditioning.base import Word
from conditioning.words import filled
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
    """Frames as times; words that were passed over lie between those around them.

    Args:
        words: texts of all words.
        sung: the frames of each; some have them.
        seconds: of a frame.
        length: of the track, in seconds.
    """
    found = [
        Word(
            min(one.first * seconds, length),
            min((one.last + 1) * seconds, length),
            text,
            one.confidence,
        )
        if one
        else None
        for text, one in zip(words, sung, strict=True)
    ]
    return filled(words, found)
