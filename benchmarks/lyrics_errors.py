"""How far from the truth are the times of words? Functions of numbers; it knows no aligner."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

NEAR = 0.3
"""Seconds that a word may be off and still count as found."""


@dataclass(frozen=True)
class Errors:
    """Of an aligner on some songs."""

    words: int
    mean: float
    """Of the distances between found and true onsets, in seconds."""
    median: float
    near: float
    """Share of the words that are at most `NEAR` off."""
    unaligned: float
    """Share of the words in songs for which the aligner had no answer: the straight line's times
    stand in for them."""


def onset_errors(truth: Sequence[float], found: Sequence[float]) -> np.ndarray:
    """Distances in seconds, [W] float64, of W words in order.

    Raises:
        ValueError: not as many were found as there are.
    """
    if len(truth) != len(found):
        raise ValueError(f"{len(found)} words were found of {len(truth)}")
    return np.abs(np.asarray(found, float) - np.asarray(truth, float))


def errors(
    truth: Mapping[str, Sequence[float]],
    found: Mapping[str, Sequence[float]],
    line: Mapping[str, Sequence[float]],
) -> Errors:
    """The errors of an aligner over songs.

    Args:
        truth: true onsets of each song's words, in seconds.
        found: the aligner's; a song that is missing or empty was not aligned.
        line: the straight line's, which stands in then.

    Raises:
        ValueError: a song has other words than the truth, or there are none.
    """
    lost = {song for song in truth if not len(found.get(song, ()))}
    each = {
        song: onset_errors(onsets, line[song] if song in lost else found[song])
        for song, onsets in truth.items()
    }
    return summary(each.values(), sum(len(each[song]) for song in lost))


def summary(distances: Iterable[np.ndarray], lost: int = 0) -> Errors:
    """Figures of distances [W] of several songs, `lost` words of which were not aligned."""
    together = np.concatenate([np.zeros(0), *distances])
    if not together.size:
        raise ValueError("there are no words")
    return Errors(
        words=together.size,
        mean=float(together.mean()),
        median=float(np.median(together)),
        near=float((together <= NEAR).mean()),
        unaligned=lost / together.size,
    )


def lrc(lyrics: str, onsets: Sequence[float]) -> str:
    """Lyrics as an .lrc file, with the time of each line's first word.

    Args:
        lyrics: with a line a row.
        onsets: of all words, in seconds.
    """
    rows, at = [], 0
    for line in lyrics.splitlines():
        count = len(line.split())
        if count:
            minutes, seconds = divmod(round(onsets[at] * 100), 6000)
            rows.append(f"[{minutes:02d}:{seconds / 100:05.2f}]{line.strip()}")
        at += count
    return "\n".join(rows) + "\n"
