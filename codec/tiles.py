"""Where long audio is cut: fixed tiles anchored at sample 0, each read with a halo.

Pure index arithmetic; it knows neither tensors nor networks.
"""

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Tile:
    """One tile: `[start, stop)` is what it answers for, `[left, right)` what it must see."""

    start: int
    stop: int
    left: int
    right: int


@dataclass(frozen=True)
class Tiling:
    """Tiles of `length` samples that see `halo` samples to each side.

    Both are multiples of the coarsest hop, so that every stream is cut between two codes. The
    last tile ends where the audio ends: the network's own padding then stands where a whole pass
    would have it.
    """

    length: int
    halo: int

    def tiles(self, total: int) -> Iterator[Tile]:
        """The tiles of `total` samples, in order; none for no samples."""
        for start in range(0, total, self.length):
            stop = min(start + self.length, total)
            yield Tile(start, stop, max(0, start - self.halo), min(total, stop + self.halo))
