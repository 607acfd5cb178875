"""Which keys a query may see, as index arithmetic; it knows neither networks nor kernels.

A context of N x L positions is folded as N blocks of length L (paper appendix A.1, after Child et
al. 2019, arXiv 1904.10509). A pattern says the same thing three times, and tests hold the three
together: `mask` defines it, `fold` turns it into dense attention over short sequences, and `slot`
with `visible` lay out a cache in which one new query reads one slice. Shapes:
B batch, H heads, T positions, D width of a head, N blocks, L length of a block, Q queries, K keys,
Z null keys.
"""

import functools
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from plugins.ground.errors import InputError


@dataclass(frozen=True)
class Pattern(ABC):
    """Which keys the queries of a context of `blocks` blocks of `block` positions see."""

    block: int
    """L."""
    blocks: int
    """N."""
    nulls: int = 0
    """Z keys and values of zeros that every query sees besides: part of the softmax."""

    name: ClassVar[str]
    causal: ClassVar[bool] = False
    """A folded query sees the folded keys up to its own index only."""

    @property
    def horizon(self) -> int | None:
        """No query sees keys from this position on; None: keys may lie anywhere."""
        return None

    @abstractmethod
    def mask(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Positions [Q] and [K] -> bool [Q, K], True where the query sees the key."""

    @abstractmethod
    def fold(self, x: Tensor) -> Tensor:
        """Queries [B, H, T, D] of positions 0..T-1 -> [B', H', T', D], short sequences.

        Batch and heads take up the sequences, so that no copy is needed where `x` is a view of
        [B, T, H, D].
        """

    def fold_keys(self, x: Tensor) -> Tensor:
        """Keys or values [B, H, T, D], so that each lies in the sequence that sees it."""
        return self.fold(x)

    @abstractmethod
    def unfold(self, x: Tensor, batch: int, length: int) -> Tensor:
        """Undo `fold`: [B', H', T', D] -> [B, H, T, D] for B = `batch`, T = `length`."""

    def folded_mask(self, queries: int, keys: int, device: torch.device) -> Tensor | None:
        """What folded queries see of Z null keys and the folded keys: bool [Q', Z + K'].

        None if they see all.
        """
        if not self.causal:
            return None
        shape = (queries, self.nulls + keys)
        return torch.ones(shape, dtype=torch.bool, device=device).tril(self.nulls)


@dataclass(frozen=True)
class SelfPattern(Pattern):
    """Queries and keys are positions of one sequence, and no query sees a later one."""

    lanes: ClassVar[int] = 1
    """Stretches of the cache; a query sees the beginning of one."""

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

    def at_most(self, length: int) -> "SelfPattern":
        """The same over fewer blocks, where only the first `length` positions will be asked for."""
        # One block more, since the last of all blocks may be special.
        return replace(self, blocks=min(self.blocks, -(-length // self.block) + 1))


class Unfolded(Pattern):
    """The whole sequence is one block of dense attention."""

    def fold(self, x: Tensor) -> Tensor:
        """See `Pattern`: there is nothing to fold."""
        return x

    def unfold(self, x: Tensor, batch: int, length: int) -> Tensor:
        """See `Pattern`."""
        return x


@dataclass(frozen=True)
class Dense(Unfolded, SelfPattern):
    """Every earlier position and its own."""

    name = "dense"
    causal = True

    def mask(self, queries: Tensor, keys: Tensor) -> Tensor:
        """See `Pattern`."""
        return keys <= queries[:, None]

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
class Row(SelfPattern):
    """Earlier positions of its own block, and its own."""

    name = "row"
    causal = True

    def mask(self, queries: Tensor, keys: Tensor) -> Tensor:
        """See `Pattern`."""
        same_block = keys // self.block == queries[:, None] // self.block
        return same_block & (keys <= queries[:, None])

    def fold(self, x: Tensor) -> Tensor:
        """See `Pattern`: time within a block is the sequence."""
        return rearrange(padded(x, self.block), "b h (n l) d -> (b n) h l d", l=self.block)

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
class Column(SelfPattern):
    """The same offset in every earlier block, and its own position."""

    name = "column"
    causal = True

    def mask(self, queries: Tensor, keys: Tensor) -> Tensor:
        """See `Pattern`."""
        same_offset = keys % self.block == queries[:, None] % self.block
        return same_offset & (keys <= queries[:, None])

    def fold(self, x: Tensor) -> Tensor:
        """See `Pattern`: blocks at one offset are the sequence."""
        return rearrange(
            in_order(padded(x, self.block)), "b h (n l) d -> b (l h) n d", l=self.block
        )

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

    def fold(self, x: Tensor) -> Tensor:
        """See `Pattern`."""
        # Keys and values are copies, so a view would hold what all three were made from.
        return super().fold(in_order(x) if x.requires_grad else x)

    def fold_keys(self, x: Tensor) -> Tensor:
        """See `Pattern`: keys move one block on; the first block sees zeros, which give zeros."""
        rows = rearrange(padded(x, self.block), "b h (n l) d -> b n h l d", l=self.block)
        return torch.cat([torch.zeros_like(rows[:, :1]), rows[:, :-1]], 1).flatten(0, 1)

    def place(self, position: int) -> tuple[int, int]:
        """See `Pattern`."""
        return position // self.block % 2, position % self.block

    def reach(self, position: int) -> tuple[int, int]:
        """See `Pattern`."""
        number = position // self.block
        return (number + 1) % 2, self.block if number else 0


@dataclass(frozen=True)
class Spread(Unfolded, SelfPattern):
    """The last `spread` positions of every block but the final one, and as many null keys.

    A query sees those that are not later than itself.
    """

    spread: int = 1

    name = "spread"

    def mask(self, queries: Tensor, keys: Tensor) -> Tensor:
        """See `Pattern`."""
        kept = (keys % self.block >= self.block - self.spread) & (keys < self._final)
        return kept & (keys <= queries[:, None])

    def fold_keys(self, x: Tensor) -> Tensor:
        """See `Pattern`: only the keys that any query sees."""
        return x[:, :, self._seen(x.shape[2], x.device)]

    def folded_mask(self, queries: int, keys: int, device: torch.device) -> Tensor:
        """See `Pattern`."""
        seen = self._seen(queries, device) <= torch.arange(queries, device=device)[:, None]
        return F.pad(seen, (self.nulls, 0), value=True)

    @property
    def _final(self) -> int:
        """Where the final block begins."""
        return self.block * (self.blocks - 1)

    def _seen(self, length: int, device: torch.device) -> Tensor:
        """Positions [K'] of the first `length` that any query sees."""
        count = min(length, self._final)
        blocks, rest = divmod(count, self.block)
        ends = torch.arange(self.block - self.spread, self.block, device=device)
        starts = torch.arange(blocks + 1, device=device) * self.block
        whole = blocks * self.spread + max(0, rest - (self.block - self.spread))
        return (starts[:, None] + ends).flatten()[:whole]

    @property
    def lane_length(self) -> int:
        """The ends of all blocks; that of the final one is never read."""
        return self.blocks * self.spread

    def place(self, position: int) -> tuple[int, int]:
        """See `SelfPattern`. What nobody will see waits where its block's end will overwrite it."""
        number, offset = divmod(position, self.block)
        return 0, number * self.spread + max(0, offset - (self.block - self.spread))

    def reach(self, position: int) -> tuple[int, int]:
        """See `SelfPattern`."""
        number, offset = divmod(position, self.block)
        own = max(0, offset - (self.block - self.spread) + 1) if position < self._final else 0
        return 0, number * self.spread + own


@dataclass(frozen=True)
class Summary(Spread):
    """The last position of every block but the final one, and a null key."""

    name = "summary"


@dataclass(frozen=True)
class Prefix(Unfolded, SelfPattern):
    """The first `seen` positions, those that are not later than the query."""

    seen: int = 1

    name = "prefix"
    causal = True

    def mask(self, queries: Tensor, keys: Tensor) -> Tensor:
        """See `Pattern`."""
        return (keys < self.seen) & (keys <= queries[:, None])

    @property
    def horizon(self) -> int:
        """See `Pattern`."""
        return self.seen

    def fold_keys(self, x: Tensor) -> Tensor:
        """See `Pattern`: only the keys that any query sees."""
        return x[:, :, : self.seen]

    @property
    def lane_length(self) -> int:
        """What is seen, and a place for what is not."""
        return self.seen + 1

    def place(self, position: int) -> tuple[int, int]:
        """See `SelfPattern`."""
        return 0, min(position, self.seen)

    def reach(self, position: int) -> tuple[int, int]:
        """See `SelfPattern`."""
        return 0, min(position + 1, self.seen)


@dataclass(frozen=True)
class Memory(Unfolded):
    """All of another sequence, whose positions are the keys."""

    name = "memory"

    def mask(self, queries: Tensor, keys: Tensor) -> Tensor:
        """See `Pattern`."""
        return torch.ones(len(queries), len(keys), dtype=torch.bool, device=queries.device)


PATTERNS: dict[str, type[Pattern]] = {
    cls.name: cls for cls in (Dense, Row, Column, Previous, Summary, Spread, Prefix, Memory)
}


def make_pattern(
    name: str, context: int, blocks: int, *, prefix: int = 0, spread: int = 1
) -> Pattern:
    """The pattern of that name over `context` positions, folded as `blocks` blocks.

    Args:
        name: a name of `PATTERNS`.
        context: positions.
        blocks: N.
        prefix: positions ahead of the codes; "prefix" sees them and, as the published models do,
            a few after them, up to the next multiple of `blocks`.
        spread: positions at the end of each block that "spread" sees.

    Raises:
        InputError: no such pattern, or the context can't be folded so.
    """
    if name not in PATTERNS:
        raise InputError(f"no attention pattern {name!r}; there are: {', '.join(PATTERNS)}")
    if context % blocks:
        raise InputError(f"a context of {context} can't be folded into {blocks} blocks")
    block = context // blocks
    if name == "prefix":
        return Prefix(block, blocks, seen=min(context, (prefix // blocks + 1) * blocks))
    if name == "summary":
        return Summary(block, blocks, nulls=1)
    if name == "spread":
        return Spread(block, blocks, nulls=spread, spread=spread)
    return PATTERNS[name](block, blocks)


def padded(x: Tensor, block: int) -> Tensor:
    """[B, H, T, D] with zeros behind, up to a whole number of blocks."""
    missing = -x.shape[2] % block
    return F.pad(x, (0, 0, 0, missing)) if missing else x


def in_order(x: Tensor) -> Tensor:
    """[B, H, T, D] as a view of a contiguous [B, T, H, D]: then so is what attention makes of it,
    and heads are joined without a copy.
    """
    return x.transpose(1, 2).contiguous().transpose(1, 2)


@functools.lru_cache
def last_in_slots(pattern: SelfPattern, length: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Slots that the positions 0..length-1 leave filled, and the position that stays in each."""
    kept = {pattern.slot(position): position for position in range(length)}
    return tuple(kept.keys()), tuple(kept.values())
