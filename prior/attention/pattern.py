"""Which keys a query may see, as index arithmetic; it knows neither networks nor kernels.

A context of N x L positions is folded as N blocks of length L (paper appendix A.1, after Child et
al. 2019, arXiv 1904.10509). A pattern says the same thing three times, and tests hold the three
together: `mask` defines it, `fold` turns it into dense attention over short sequences, and `slot`
with `visible` lay out a cache in which one new query reads one slice. Shapes:
B batch, H heads, T positions, D width of a head, N blocks, L length of a block, Q queries, K keys.
"""

import functools
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from plugins.ground.errors import InputError


@dataclass(frozen=True)
class Pattern(ABC):
    """One way to attend within a context of `blocks` blocks of `block` positions."""

    block: int
    """L."""
    blocks: int
    """N."""
    nulls: int = 0
    """Keys and values of zeros that every query sees besides: part of the softmax."""

    name: ClassVar[str]
    causal: ClassVar[bool]
    """A folded query sees the folded keys up to its own index only; else all of them."""
    lanes: ClassVar[int] = 1
    """Stretches of the cache; a query sees the beginning of one."""

    @abstractmethod
    def mask(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Positions [Q] and [K] -> bool [Q, K], True where the query sees the key."""

    @abstractmethod
    def fold(self, x: Tensor) -> Tensor:
        """Queries [B, H, T, D] of positions 0..T-1 -> [B', H', T', D], short sequences.

        T is padded to whole blocks. Batch and heads take up the sequences, so that no copy is
        needed where `x` is a view of [B, T, H, D].
        """

    def fold_keys(self, x: Tensor) -> Tensor:
        """Keys or values [B, H, T, D], so that each lies in the sequence that sees it."""
        return self.fold(x)

    @abstractmethod
    def unfold(self, x: Tensor, batch: int, length: int) -> Tensor:
        """Undo `fold`: [B', H', T', D] -> [B, H, T, D] for B = `batch`, T = `length`."""

    @property
    @abstractmethod
    def lane_length(self) -> int:
        """Cached positions of one lane."""

    @abstractmethod
    def place(self, position: int) -> tuple[int, int]:
        """Lane and index in it where a position is cached; an earlier one may be overwritten."""

    @abstractmethod
    def reach(self, position: int) -> tuple[int, int]:
        """The lane that the query at `position` sees, and how many of its positions."""

    @property
    def cache_length(self) -> int:
        """Slots of a cache for the whole context; each lane begins with its null keys."""
        return self.lanes * (self.nulls + self.lane_length)

    def slot(self, position: int) -> int:
        """Where the key of a position is cached."""
        lane, index = self.place(position)
        return lane * (self.nulls + self.lane_length) + self.nulls + index

    def visible(self, position: int) -> slice:
        """The slots that the query at `position` sees, once its own key is in its slot."""
        lane, count = self.reach(position)
        start = lane * (self.nulls + self.lane_length)
        return slice(start, start + self.nulls + count)

    def padded(self, x: Tensor) -> Tensor:
        """[B, H, T, D] with zeros behind, up to a whole number of blocks."""
        missing = -x.shape[2] % self.block
        return F.pad(x, (0, 0, 0, missing)) if missing else x


@dataclass(frozen=True)
class Dense(Pattern):
    """Every earlier position and its own."""

    name = "dense"
    causal = True

    def mask(self, queries: Tensor, keys: Tensor) -> Tensor:
        """See `Pattern`."""
        return keys <= queries[:, None]

    def fold(self, x: Tensor) -> Tensor:
        """See `Pattern`: there is nothing to fold."""
        return x

    def unfold(self, x: Tensor, batch: int, length: int) -> Tensor:
        """See `Pattern`."""
        return x

    @property
    def lane_length(self) -> int:
        """The whole context."""
        return self.block * self.blocks

    def place(self, position: int) -> tuple[int, int]:
        """See `Pattern`."""
        return 0, position

    def reach(self, position: int) -> tuple[int, int]:
        """See `Pattern`."""
        return 0, position + 1


@dataclass(frozen=True)
class Row(Pattern):
    """Earlier positions of its own block, and its own."""

    name = "row"
    causal = True

    def mask(self, queries: Tensor, keys: Tensor) -> Tensor:
        """See `Pattern`."""
        same_block = keys // self.block == queries[:, None] // self.block
        return same_block & (keys <= queries[:, None])

    def fold(self, x: Tensor) -> Tensor:
        """See `Pattern`: time within a block is the sequence."""
        return rearrange(self.padded(x), "b h (n l) d -> (b n) h l d", l=self.block)

    def unfold(self, x: Tensor, batch: int, length: int) -> Tensor:
        """See `Pattern`."""
        return rearrange(x, "(b n) h l d -> b h (n l) d", b=batch)[:, :, :length]

    @property
    def lane_length(self) -> int:
        """One block, written anew by the next."""
        return self.block

    def place(self, position: int) -> tuple[int, int]:
        """See `Pattern`."""
        return 0, position % self.block

    def reach(self, position: int) -> tuple[int, int]:
        """See `Pattern`."""
        return 0, position % self.block + 1


@dataclass(frozen=True)
class Column(Pattern):
    """The same offset in every earlier block, and its own position."""

    name = "column"
    causal = True

    def mask(self, queries: Tensor, keys: Tensor) -> Tensor:
        """See `Pattern`."""
        same_offset = keys % self.block == queries[:, None] % self.block
        return same_offset & (keys <= queries[:, None])

    def fold(self, x: Tensor) -> Tensor:
        """See `Pattern`: blocks at one offset are the sequence."""
        return rearrange(self.padded(x), "b h (n l) d -> b (l h) n d", l=self.block)

    def unfold(self, x: Tensor, batch: int, length: int) -> Tensor:
        """See `Pattern`."""
        return rearrange(x, "b (l h) n d -> b h (n l) d", l=self.block)[:, :, :length]

    @property
    def lanes(self) -> int:  # type: ignore[override]
        """One lane for each offset, so that a column is contiguous."""
        return self.block

    @property
    def lane_length(self) -> int:
        """One position of every block."""
        return self.blocks

    def place(self, position: int) -> tuple[int, int]:
        """See `Pattern`."""
        return position % self.block, position // self.block

    def reach(self, position: int) -> tuple[int, int]:
        """See `Pattern`."""
        return position % self.block, position // self.block + 1


@dataclass(frozen=True)
class Previous(Row):
    """The whole block before its own. Queries of the first block see nothing and get zeros."""

    name = "previous"
    causal = False
    lanes = 2  # the block that is read and the block that is being written, in turn

    def mask(self, queries: Tensor, keys: Tensor) -> Tensor:
        """See `Pattern`."""
        return keys // self.block == queries[:, None] // self.block - 1

    def fold_keys(self, x: Tensor) -> Tensor:
        """See `Pattern`: keys move one block on; the first block sees zeros, which give zeros."""
        rows = rearrange(self.padded(x), "b h (n l) d -> b n h l d", l=self.block)
        return torch.cat([torch.zeros_like(rows[:, :1]), rows[:, :-1]], 1).flatten(0, 1)

    def place(self, position: int) -> tuple[int, int]:
        """See `Pattern`."""
        return position // self.block % 2, position % self.block

    def reach(self, position: int) -> tuple[int, int]:
        """See `Pattern`."""
        number = position // self.block
        return (number + 1) % 2, self.block if number else 0


PATTERNS: dict[str, type[Pattern]] = {cls.name: cls for cls in (Dense, Row, Column, Previous)}


def make_pattern(name: str, context: int, blocks: int) -> Pattern:
    """The pattern of that name over `context` positions, folded as `blocks` blocks.

    Raises:
        InputError: no such pattern, or the context can't be folded so.
    """
    if name not in PATTERNS:
        raise InputError(f"no attention pattern {name!r}; there are: {', '.join(PATTERNS)}")
    if context % blocks:
        raise InputError(f"a context of {context} can't be folded into {blocks} blocks")
    return PATTERNS[name](context // blocks, blocks)


@functools.lru_cache
def last_in_slots(pattern: Pattern, length: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Slots that the positions 0..length-1 leave filled, and the position that stays in each."""
    kept = {pattern.slot(position): position for position in range(length)}
    return tuple(kept.keys()), tuple(kept.values())
