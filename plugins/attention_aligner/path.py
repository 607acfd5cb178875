"""From attention over lyrics to the frames in which each word is sung. It knows no prior.

Singing goes through the lyrics in order, so the frames follow a path that never goes back: the one
on which most attention lies, found by dynamic programming (as in Viterbi alignment, Rabiner 1989;
states may be skipped, since not everything that is written is sung). Shapes:
F frames, C characters of the lyrics, K states: the words' characters, and a pause around each word.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

PAUSE = 2.5
"""Attention that a character needs, over what it would get if all got the same, to count as sung
rather than as a pause."""
NEIGHBOURS = (0.25, 0.5, 0.25)
"""Weights of the character before, the character and the one after; of the frames likewise."""


@dataclass(frozen=True)
class Sung:
    """The frames of one word."""

    first: int
    last: int
    confidence: float
    """Mean attention on its characters, from 0 to 1."""


def sung_words(
    attention: np.ndarray, even: np.ndarray, words: Sequence[tuple[int, int]]
) -> list[Sung | None]:
    """The frames in which each word is sung.

    Args:
        attention: [F, C], of each frame on each character; rows need not sum to 1.
        even: [F], what each character would get if a frame's attention were spread evenly over
            all that it could attend to.
        words: first character of each word and the one behind its last, in order; a word without
            characters is never sung.

    Returns:
        For each word its frames, or None if the path goes past it.
    """
    owners, columns = _states(words)
    path = monotonic_path(_scores(attention, columns, even))
    owner, column = owners[path], columns[path]
    found: list[Sung | None] = []
    for number, (start, stop) in enumerate(words):
        own = np.flatnonzero((owner == number) & (column >= 0))
        if not own.size:
            found.append(None)
            continue
        first, last = int(own[0]), int(own[-1])
        mass = float(attention[first : last + 1, start:stop].sum(1).mean())
        found.append(Sung(first, last, min(max(mass, 0.0), 1.0)))
    return found


def monotonic_path(scores: np.ndarray) -> np.ndarray:
    """The states, never falling from frame to frame, of the greatest total score.

    O(F x K) time and F x K bytes. Of equal paths, the one that is further along.

    Args:
        scores: [F, K] of each state in each frame.

    Returns:
        [F] int64.
    """
    best = np.zeros(scores.shape[1])  # [K], of paths that have come to state k or less far
    nearer = np.empty(scores.shape, bool)  # the best of those did not come as far as k
    for frame, row in enumerate(scores):
        here = best + row
        best = np.maximum.accumulate(here)
        nearer[frame] = here < best
    path = np.empty(len(scores), np.int64)
    state = scores.shape[1] - 1
    for frame in reversed(range(len(scores))):
        while nearer[frame, state]:
            state -= 1
        path[frame] = state
    return path


def _states(words: Sequence[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    """Of each state, the word it belongs to and its character, -1 for a pause ahead of the word."""
    owners, columns = [], []
    for number, (start, stop) in enumerate([*words, (0, 0)]):
        owners += [number] * (1 + stop - start)
        columns += [-1, *range(start, stop)]
    return np.array(owners), np.array(columns)


def _scores(attention: np.ndarray, columns: np.ndarray, even: np.ndarray) -> np.ndarray:
    """How well each state explains each frame, [F, K] float32.

    The logarithm keeps one sharp frame from outweighing many; that of a pause does not depend on
    the frame.
    """
    smooth = _smoothed(_smoothed(attention, 0), 1) / np.maximum(even, 1e-9)[:, None]
    smooth = np.log1p(smooth, out=smooth)
    scores = smooth[:, columns]
    scores[:, columns < 0] = np.log1p(PAUSE)
    return scores


def _smoothed(x: np.ndarray, axis: int) -> np.ndarray:
    """Running mean by `NEIGHBOURS` along an axis; the ends count as their own neighbours."""
    x = np.moveaxis(x, axis, 0)
    before, own, after = NEIGHBOURS
    mixed = own * x
    mixed[1:] += before * x[:-1]
    mixed[:1] += before * x[:1]
    mixed[:-1] += after * x[1:]
    mixed[-1:] += after * x[-1:]
    return np.moveaxis(mixed, 0, axis)
