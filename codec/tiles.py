"""Where long audio is cut: fixed tiles anchored at sample 0, each read with a halo.

Pure index arithmetic; it knows neither tensors nor networks. All numbers are samples.
"""

from collections.abc import Iterator
from dataclasses import dataclass

HALOS_A_TILE = 28
"""Tiles so long that reading the halo at both ends costs about 7% more work."""
SHORTEST = 1 << 17
"""Networks that see little are not cut smaller than this (3 to 6 s), for speed."""


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

    @classmethod
    def fit(cls, reach: int, hop: int) -> "Tiling":
        """The tiling of a network.

        Args:
            reach: samples that it sees to one side, coding or decoding, at any level.
            hop: the coarsest stream's.
        """
        halo = _round_up(reach, hop)
        return cls(_round_up(max(HALOS_A_TILE * halo, SHORTEST), hop), halo)

    def tile(self, start: int, total: int | None = None) -> Tile:
        """The tile at `start` of `total` samples; without a total, of endless audio."""
        stop, right = start + self.length, start + self.length + self.halo
        if total is not None:
            stop, right = min(stop, total), min(right, total)
        return Tile(start, stop, max(0, start - self.halo), right)

    def tiles(self, total: int, start: int = 0) -> Iterator[Tile]:
        """The tiles of `total` samples from `start` on, in order; none for no samples."""
        return (self.tile(at, total) for at in range(start, total, self.length))


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
