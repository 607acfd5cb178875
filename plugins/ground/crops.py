"""Which stretch of which track a training item is: shuffled, repeatable, without any state.

Pure index arithmetic; it does not know what the tracks are made of.
"""

import functools
from collections.abc import Sequence

import numpy as np


class Crops:
    """Stretches of `size` cut from tracks; every epoch visits each track as often as it is long.

    Args:
        lengths: of the tracks, in the unit of `size`; a shorter track is one short crop.
        size: length of a crop.
        seed: of the order and the shifts.
        align: starts are multiples of this.
        shift: draw starts anywhere in the track; else cut it at multiples of `size`.
    """

    def __init__(
        self, lengths: Sequence[int], size: int, *, seed: int, align: int = 1, shift: bool = True
    ) -> None:
        self.lengths, self.size, self.align = np.asarray(lengths, np.int64), size, align
        self.seed, self.shift = seed, shift
        counts = -(-self.lengths // size)
        self._ends = np.cumsum(counts)
        self._shuffled = functools.lru_cache(2)(self._order)

    def __len__(self) -> int:
        """Crops in an epoch."""
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getstate__(self) -> dict[str, object]:
        """Without the cache, which other processes can't be sent."""
        return {name: value for name, value in vars(self).items() if name != "_shuffled"}

    def __setstate__(self, state: dict[str, object]) -> None:
        vars(self).update(state)
        self._shuffled = functools.lru_cache(2)(self._order)

    def __call__(self, index: int) -> tuple[int, int]:
        """Track and start of item `index`, for any index from 0 up."""
        epoch, turn = divmod(index, len(self))
        crop = int(self._shuffled(epoch)[turn])
        track = int(np.searchsorted(self._ends, crop, side="right"))
        room = max(0, int(self.lengths[track]) - self.size)
        if self.shift:
            start = int(np.random.default_rng([self.seed, index]).integers(0, room + 1))
        else:
            first = int(self._ends[track - 1]) if track else 0
            start = min((crop - first) * self.size, room)
        return track, start // self.align * self.align

    def rng(self, index: int) -> np.random.Generator:
        """A fresh generator for whatever else is random in item `index`."""
        return np.random.default_rng([self.seed, index, 1])

    def _order(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self.seed, 1 << 40, epoch]).permutation(len(self))
