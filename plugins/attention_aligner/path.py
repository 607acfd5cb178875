"""From attention over lyrics to the frames in which each word is sung. It knows no prior.

Singing goes through the lyrics in order, so the frames follow a path that never goes back: the one
on which most attention lies, found by dynamic programming (as in Viterbi alignment, Rabiner 1989).
It may begin and end anywhere in the lyrics, but what it skips on its way has its cost.
Shapes: F frames, C tokens of the lyrics, K states: the words' tokens, and a pause around each word.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

PAUSE = 2.5
"""Attention that a token needs, over what it would get if all got the same, to count as sung
rather than as a pause."""
WAITING = 0.1
"""Nats by which a pause is likelier than a word whose first token is looked at."""
SKIPPED = 4.0
"""Nats that a token costs which is skipped: more than to go past it in a frame, so that words are
rather found at a wrong place, with little confidence, than left out."""
NEIGHBOURS = (0.25, 0.5, 0.25)
"""Weights of the token before, the token and the one after; of the frames likewise."""

Words = Sequence[tuple[int, int]]
"""First token of each word and the one behind its last, in order; one without tokens is never
sung."""


@dataclass(frozen=True)
class Sung:
    """The frames of one word."""

    first: int
    last: int
    confidence: float
    """Mean attention on its tokens, from 0 to 1."""


@dataclass(frozen=True)
class Lattice:
    """How well each state explains each frame."""

    scores: np.ndarray
    """[F, K], in nats."""
    owners: np.ndarray
    """[K] int64, the word that a state belongs to."""
    spoken: np.ndarray
    """[K] bool, False for a pause ahead of the word."""

    @classmethod
    def of(cls, attention: np.ndarray, even: float, words: Words) -> "Lattice":
        """The states of these words.

        The logarithm keeps one sharp frame from outweighing many. A pause scores the same in any
        frame, or more where attention is on what a prior waits at: what stands between two words,
        and the beginning of the next, which it will have to know.

        Args:
            attention: [F, C], of each frame on each token; rows need not sum to 1.
            even: what each token would get if the attention were spread evenly.
            words: in tokens.
        """
        owners, columns = [], []
        for number, (start, stop) in enumerate([*words, (0, 0)]):
            owners += [number] * (1 + stop - start)
            columns += [-1, *range(start, stop)]
        spoken = np.array(columns) >= 0
        smooth = _smoothed(_smoothed(attention, 0), 1) / max(even, 1e-9)
        seen = np.log1p(smooth, out=smooth)
        scores = seen[:, columns]
        behind = [0, *(stop for _, stop in words)]
        begun = [*(min(start + 1, stop) for start, stop in words), seen.shape[1]]
        for state, first, last in zip(np.flatnonzero(~spoken), behind, begun, strict=True):
            waits = seen[:, first:last].max(1, initial=np.log1p(PAUSE))
            scores[:, state] = waits + WAITING
        return cls(scores, np.array(owners), spoken)

    def path(self) -> np.ndarray:
        """The states of the best path, [F] int64."""
        return best_path(self.scores, SKIPPED * self.spoken)

    def gain(self, cuts: Sequence[int]) -> float:
        """How well attention goes through the lyrics, in nats; about 0 if not at all.

        The score of the best path, less that of the best one through the same frames in reverse:
        what is sharp but stays where it is, or jumps about, is worth as much backwards.

        Args:
            cuts: 0, the other frames at which other tokens come into sight, and F: frames in
                between are reversed.
        """
        backwards = [self.scores[first:behind][::-1] for first, behind in itertools.pairwise(cuts)]
        costs = SKIPPED * self.spoken
        return best_score(self.scores, costs) - best_score(np.concatenate(backwards), costs)

    def runs(self, path: np.ndarray) -> list[tuple[int, int] | None]:
        """The first and last frame in which a path is at each word; None for a word that it does
        not come to, or that a pause would explain better.
        """
        found: list[tuple[int, int] | None] = []
        for number in range(self.owners[-1]):
            own = np.flatnonzero((self.owners[path] == number) & self.spoken[path])
            heard = own.size and self.scores[own, path[own]].mean() > np.log1p(PAUSE)
            found.append((int(own[0]), int(own[-1])) if heard else None)
        return found


def sung_words(attention: np.ndarray, even: float, words: Words) -> list[Sung | None]:
    """The frames in which each word is sung, or None where nothing follows it.

    A pause takes up the frames in which a word's first token is looked at, but for the last. Of
    these, as many are the word's as a token usually has.

    Args:
        attention: as in `Lattice.of`.
        even: as there.
        words: as there.
    """
    lattice = Lattice.of(attention, even, words)
    runs = lattice.runs(lattice.path())
    lasting = [
        (run[1] + 1 - run[0]) / (stop - start)
        for run, (start, stop) in zip(runs, words, strict=True)
        if run
    ]
    usual = round(float(np.median(lasting))) if lasting else 0
    found: list[Sung | None] = []
    free = 0  # first frame behind the word before
    for run, (start, stop) in zip(runs, words, strict=True):
        if run is None:
            found.append(None)
            continue
        first, last = max(free, run[0] - usual), run[1]
        mass = float(attention[first : last + 1, start:stop].sum(1).mean())
        found.append(Sung(first, last, min(max(mass, 0.0), 1.0)))
        free = last + 1
    return found


def best_path(scores: np.ndarray, costs: np.ndarray) -> np.ndarray:
    """The states, never falling from frame to frame, of the greatest total score.

    O(F x K) time, and 4 x F x K bytes.

    Args:
        scores: [F, K] of each state in each frame.
        costs: [K] of going past a state without being in it.

    Returns:
        [F] int64.
    """
    states = np.arange(scores.shape[1])
    before = np.empty(scores.shape, np.int32)  # the state that the best path to each comes from
    paid = np.cumsum(costs)
    best = np.zeros(scores.shape[1])
    for frame, row in enumerate(scores):
        reached = np.maximum.accumulate(best + paid)
        source = np.maximum.accumulate(np.where(best + paid == reached, states, 0))
        jump = reached[:-1] - paid[:-1]
        moves = jump > best[1:]
        before[frame, 0], before[frame, 1:] = 0, np.where(moves, source[:-1], states[1:])
        best[1:] = np.where(moves, jump, best[1:])
        best += row
    path = np.empty(len(scores), np.int64)
    state = int((best - _left(costs)).argmax())
    for frame in reversed(range(len(scores))):
        path[frame] = state
        state = before[frame, state]
    return path


def best_score(scores: np.ndarray, costs: np.ndarray) -> float:
    """What the path that `best_path` finds is worth; arguments as there."""
    paid = np.cumsum(costs)
    best = np.zeros(scores.shape[1])
    for row in scores:
        jump = np.maximum.accumulate(best + paid)[:-1] - paid[:-1]
        best[1:] = np.maximum(best[1:], jump)
        best += row
    return float((best - _left(costs)).max())


def _left(costs: np.ndarray) -> np.ndarray:
    """What it costs to end in each state, [K]: as much as one that is skipped, if any are left.

    Not more, since a track may be the beginning of a song.
    """
    paid = np.cumsum(costs)
    return np.where(paid < paid[-1], costs.max(), 0.0)


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
