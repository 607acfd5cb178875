"""Attention that walks the blocks of any pattern; it knows its mask and no folding.

Queries go in tiles, and each tile attends densely to the keys that any of its queries sees. The
backward pass computes the weights of a tile again (Dao et al. 2022, arXiv 2205.14135), so that
memory is linear in T and K, forward and backward. Shapes:
B batch, H heads, T queries, K keys, D width of a head, Z null keys of the pattern,
S queries of a tile, V keys that they see.
"""

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from prior.attention.base import AttentionKernel, AttentionRequest
from prior.attention.pattern import Pattern

TILE = 128
"""Most queries that are attended at once; a tile takes memory for B x H x TILE x V scores."""

Span = slice | Tensor
"""Positions: evenly spaced, which indexes without a copy, or any [n]."""


@dataclass(frozen=True, eq=False)
class Tile:
    """Queries that are attended together."""

    queries: Span
    keys: Span
    """What any of the queries sees, in order; never nothing."""
    full: bool
    """Every one of them sees all of it."""


class Sparse(AttentionKernel):
    """Tiles of queries and what they see, one tile after another, on any device.

    It serves every pattern, a stranger's too: it asks nothing but `Pattern.mask`. Where a pattern
    leads is found out once for all layers; if its keys are not evenly spaced, V positions for each
    tile are kept of that. Softmax and sums are in at least float32.
    """

    # Above `naive`, which keeps all scores; below what folds, which has no loop.
    rank = 5

    def why_not(self, request: AttentionRequest) -> str | None:
        """It serves everything."""
        return None

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, pattern: Pattern) -> Tensor:
        """See `AttentionKernel`."""
        mixed: Tensor = _Walk.apply(q, k, v, pattern)
        return mixed


@functools.lru_cache(maxsize=128)
def tiles(pattern: Pattern, queries: int, keys: int, device: torch.device) -> tuple[Tile, ...]:
    """How to walk a pattern over T and K positions; queries that see nothing are in no tile.

    Queries that see the same keys lie side by side, or at one offset of their blocks, as in
    columns: of the two orders, the one that has fewer scores to compute.
    """
    positions = torch.arange(queries, device=device)
    by_offset = torch.argsort(positions % pattern.block, stable=True)
    walks = [tuple(_tiles(pattern, order, keys)) for order in (positions, by_offset)]
    return min(walks, key=lambda walk: sum(_size(t.queries) * _size(t.keys) for t in walk))


def _tiles(pattern: Pattern, order: Tensor, keys: int) -> Iterator[Tile]:
    positions = torch.arange(keys, device=order.device)
    for queries in order.split(TILE):
        seen = pattern.mask(queries, positions)
        visible = seen.any(0).nonzero()[:, 0]
        if len(visible):
            yield Tile(_span(queries), _span(visible), full=bool(seen[:, visible].all()))


def _span(index: Tensor) -> Span:
    first = int(index[0])
    steps = set(index.diff().tolist()) or {1}
    step = steps.pop()
    return index if steps or step < 1 else slice(first, int(index[-1]) + 1, step)


def _size(span: Span) -> int:
    return len(span) if isinstance(span, Tensor) else len(range(span.start, span.stop, span.step))


class _Walk(torch.autograd.Function):
    """(q, k, v, pattern) -> attention. Of the weights, only the sums of their rows are kept."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, pattern: Pattern) -> Tensor:
        kind = torch.promote_types(q.dtype, torch.float32)
        out = torch.zeros_like(q)
        sums = torch.zeros(q.shape[:3], dtype=kind, device=q.device)  # logarithms, [B, H, T]
        with torch.autocast(q.device.type, enabled=False):
            for tile in tiles(pattern, q.shape[2], k.shape[2], q.device):
                scores = _scores(q, k, pattern, tile)
                total = scores.logsumexp(-1)
                if pattern.nulls:  # scores of zero, values of zero
                    total = total.logaddexp(torch.full_like(total, math.log(pattern.nulls)))
                # Any finite number will do for a query that sees nothing: its scores are -inf.
                total = total.masked_fill(total == -torch.inf, 0)
                weights = scores.sub_(total[..., None]).exp_()
                out[:, :, tile.queries] = (weights @ v[:, :, tile.keys].to(kind)).to(q.dtype)
                sums[:, :, tile.queries] = total
        ctx.save_for_backward(q, k, v, sums)
        ctx.pattern = pattern
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        q, k, v, sums = ctx.saved_tensors
        kind, scale = sums.dtype, q.shape[-1] ** -0.5
        for_q, for_k, for_v = (torch.zeros_like(x, dtype=kind) for x in (q, k, v))
        with torch.autocast(q.device.type, enabled=False):
            for tile in tiles(ctx.pattern, q.shape[2], k.shape[2], q.device):
                queries, keys = tile.queries, tile.keys
                weights = _scores(q, k, ctx.pattern, tile).sub_(sums[:, :, queries, None]).exp_()
                arriving = gradient[:, :, queries].to(kind)
                for_v[:, :, keys] += weights.mT @ arriving
                for_weights = arriving @ v[:, :, keys].to(kind).mT
                # Weights add up to one with those of null keys, so that none grows alone.
                shared = (weights * for_weights).sum(-1, keepdim=True)
                for_scores = weights.mul_(for_weights.sub_(shared)).mul_(scale)
                for_q[:, :, queries] = for_scores @ k[:, :, keys].to(kind)
                for_k[:, :, keys] += for_scores.mT @ q[:, :, queries].to(kind)
        return for_q.to(q.dtype), for_k.to(k.dtype), for_v.to(v.dtype), None


def _scores(q: Tensor, k: Tensor, pattern: Pattern, tile: Tile) -> Tensor:
    """[B, H, S, V], -inf where a query doesn't see a key."""
    kind = torch.promote_types(q.dtype, torch.float32)
    keys = k[:, :, tile.keys].to(kind)
    scores = (q[:, :, tile.queries].to(kind) @ keys.mT).mul_(q.shape[-1] ** -0.5)
    if tile.full:
        return scores
    queries = torch.arange(q.shape[2], device=q.device)[tile.queries]
    positions = torch.arange(k.shape[2], device=q.device)[tile.keys]
    return scores.masked_fill_(~pattern.mask(queries, positions), -torch.inf)
