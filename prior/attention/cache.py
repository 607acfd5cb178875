"""Keys and values of positions already seen, laid out by a pattern; it knows no network.

Nothing grows: every cache is allocated once and written in place. Shapes:
B batch, H heads, T positions, D width of a head, C slots of the pattern's cache.
"""

import functools

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from plugins.ground.errors import InputError
from prior.attention.base import Attend, LayerAttention
from prior.attention.pattern import Pattern, SelfPattern, last_in_slots


class LayerCache:
    """The cache of one layer. It is an `Attend`: a layer calls it in place of a kernel.

    The first call may bring many positions, which `kernel` attends over; each call after that
    brings one, which sees one slice of the cache.

    Args:
        pattern: over at least as many positions as will come.
        batch: B.
        heads: H.
        width: D.
        kernel: for the first call; the layer's own attention, if it has one, for all calls.
        dtype: of keys and values.
        device: where they are.
    """

    def __init__(
        self,
        pattern: SelfPattern,
        batch: int,
        heads: int,
        width: int,
        *,
        kernel: Attend,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        # Zeros, since that is what null keys are.
        shape = (batch, heads, pattern.cache_length, width)
        self.keys = torch.zeros(shape, dtype=dtype, device=device)  # [B, H, C, D]
        self.values = torch.zeros_like(self.keys)
        # Which position lies in each slot [C]; null keys have none.
        self.positions = torch.full(shape[2:3], -1, device=device)
        self.pattern = pattern
        self.kernel = kernel
        self.length = 0
        """Positions seen so far."""

    @property
    def nbytes(self) -> int:
        """Memory that it takes."""
        return 2 * self.keys.nbytes

    def clear(self) -> None:
        """Forget all positions; what is left in the slots is never read."""
        self.length = 0

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, pattern: Pattern) -> Tensor:
        """Attention for the next T positions [B, H, T, D]; T must be 1 but for the first call.

        Raises:
            InputError: the context is full, or several positions after the first call.
        """
        count = q.shape[2]
        if self.length + count > pattern.block * pattern.blocks:
            raise InputError(f"the context of {pattern.block * pattern.blocks} positions is full")
        if count == 1:
            return self._step(q, k, v)
        if self.length:
            raise InputError("after the first pass, a cache takes one position at a time")
        self._fill(k, v)
        return self.kernel(q, k, v, pattern)

    def _step(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        position, pattern = self.length, self.pattern
        slot, seen = pattern.slot(position), pattern.visible(position)
        self.keys[:, :, slot] = k[:, :, 0]
        self.values[:, :, slot] = v[:, :, 0]
        self.positions[slot] = position
        self.length = position + 1
        if seen.start == seen.stop:  # fused attention over no keys is not the same everywhere
            return torch.zeros_like(q)
        keys, values = self.keys[:, :, seen], self.values[:, :, seen]
        if isinstance(self.kernel, LayerAttention):
            return self.kernel.step(q, keys, values, self.positions[seen], position)
        return F.scaled_dot_product_attention(q, keys, values)

    def _fill(self, k: Tensor, v: Tensor) -> None:
        self.length = k.shape[2]
        filled, kept = last_in_slots(self.pattern, self.length)
        slots = torch.tensor(filled, device=k.device)
        positions = torch.tensor(kept, device=k.device)
        self.positions[slots] = positions
        self.keys[:, :, slots] = k[:, :, positions].to(self.keys.dtype)
        self.values[:, :, slots] = v[:, :, positions].to(self.values.dtype)


class MemoryCache:
    """Keys and values of a memory, which don't change while codes are sampled. It is an `Attend`.

    Args:
        kernel: computes the attention.
    """

    def __init__(self, kernel: Attend) -> None:
        self.kernel = kernel
        self.kept: tuple[Tensor, Tensor] | None = None
        """Keys and values [B, H, S, D] of the first call; later ones need not compute them."""

    @property
    def nbytes(self) -> int:
        """Memory that it takes."""
        return 2 * self.kept[0].nbytes if self.kept else 0

    def clear(self) -> None:
        """Forget the memory."""
        self.kept = None

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, pattern: Pattern) -> Tensor:
        """Attention of any number of queries [B, H, T, D] to the memory [B, H, S, D]."""
        self.kept = (k, v)
        return self.kernel(q, k, v, pattern)


@functools.lru_cache(maxsize=64)
def slot_tables(pattern: SelfPattern) -> np.ndarray:
    """What each position does with a cache: its key's slot, the first that it sees, and behind the
    last; [3, positions] int32.
    """
    positions = range(pattern.block * pattern.blocks)
    seen = [pattern.visible(position) for position in positions]
    slots = [pattern.slot(position) for position in positions]
    table = [slots, [part.start for part in seen], [part.stop for part in seen]]
    return np.array(table, np.int32)
