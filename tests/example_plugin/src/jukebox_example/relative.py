"""`relative`: attention with a learned vector for every distance between query and key.

Relative attention after Huang et al. 2018 (Music Transformer, arXiv 1809.04281, section 3.4), with
distances clipped as by Shaw et al. 2018 (arXiv 1803.02155). Memory is linear in length, forward
and backward: queries go tile by tile, and the backward pass computes each tile again. A tile costs
what all keys cost that any of its queries sees, so rows are cheap and columns are not. It knows
patterns by their masks alone. Shapes:
B batch, H heads, T queries, K keys, D width of a head, Z null keys of the pattern, M distances,
Q queries of a tile.
"""

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from prior.attention.base import AttentionRequest, LayerAttention, LayerSite
from prior.attention.pattern import Pattern

TILE = 64
"""Q, but for the last tile."""
NULL = -1
"""The position of null keys."""


class RelativeConfig(BaseModel):
    """How far distances are told apart."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_distance: int = Field(512, ge=1)
    """M: distances 0 to M - 1 have a vector each, farther keys share the last."""


class Relative(LayerAttention):
    """Softmax over q_i (k_j + e_(i - j)) / sqrt(D), with vectors e for each head.

    A null key has the logit 0 and no distance; a query that sees nothing gets zeros.
    """

    Config = RelativeConfig
    config: RelativeConfig

    def __init__(self, config: RelativeConfig, site: LayerSite) -> None:
        super().__init__(config, site)
        shape = (site.heads, config.max_distance, site.width)
        self.distances = nn.Parameter(torch.empty(shape))  # [H, M, D]
        nn.init.normal_(self.distances, std=site.width**-0.5)

    @classmethod
    def why_not(cls, request: AttentionRequest) -> str | None:
        """It serves everything: plain operations on masks."""
        return None

    def oracle(self, q: Tensor, k: Tensor, v: Tensor, pattern: Pattern) -> Tensor:
        """See `LayerAttention`: a vector for every pair, [H, T, T, D]."""
        positions = torch.arange(q.shape[2], device=q.device)
        apart = (positions[:, None] - positions).clamp(0, self.config.max_distance - 1)
        keys = k.unsqueeze(2) + self.distances[:, apart]
        scores = F.pad((q.unsqueeze(3) * keys).sum(-1) * q.shape[-1] ** -0.5, (pattern.nulls, 0))
        seen = F.pad(pattern.mask(positions, positions), (pattern.nulls, 0), value=True)
        weights = scores.masked_fill(~seen, torch.finfo(q.dtype).min).softmax(-1) * seen
        return weights[..., pattern.nulls :] @ v

    def forward(self, q: Tensor, k: Tensor, v: Tensor, pattern: Pattern) -> Tensor:
        """See `LayerAttention`."""
        nulls, queries = pattern.nulls, torch.arange(q.shape[2], device=q.device)
        keys, values = F.pad(k, (0, 0, nulls, 0)), F.pad(v, (0, 0, nulls, 0))
        mixed = [
            checkpoint(
                self._tile, part, keys, values, here, pattern,
                use_reentrant=False, preserve_rng_state=False,
            )
            for part, here in zip(q.split(TILE, 2), queries.split(TILE), strict=True)
        ]  # fmt: skip
        return torch.cat(mixed, 2)

    def step(
        self, q: Tensor, keys: Tensor, values: Tensor, positions: Tensor, position: int
    ) -> Tensor:
        """See `LayerAttention`."""
        here = torch.tensor([position], device=q.device)
        return self._mix(q, keys, values, here, positions, torch.ones_like(positions[None]).bool())

    def weights(self, q: Tensor, k: Tensor, pattern: Pattern) -> Tensor:
        """See `LayerAttention`."""
        queries = torch.arange(q.shape[2], device=q.device)
        positions, seen = _sight(queries, pattern.nulls, k.shape[2], pattern)
        return self._weights(q, F.pad(k, (0, 0, pattern.nulls, 0)), queries, positions, seen)

    def _tile(
        self, q: Tensor, keys: Tensor, values: Tensor, queries: Tensor, pattern: Pattern
    ) -> Tensor:
        """Some queries [B, H, Q, D] at positions [Q] against all keys [B, H, Z + K, D]."""
        positions, seen = _sight(queries, pattern.nulls, keys.shape[2] - pattern.nulls, pattern)
        near = seen.any(0).nonzero()[:, 0]
        keys, values = keys[:, :, near], values[:, :, near]
        return self._mix(q, keys, values, queries, positions[near], seen[:, near])

    def _mix(
        self,
        q: Tensor,
        keys: Tensor,
        values: Tensor,
        queries: Tensor,
        positions: Tensor,
        seen: Tensor,
    ) -> Tensor:
        """Values by their weights, [B, H, Q, D]; in at least float32, as `naive` computes."""
        weights = self._weights(q, keys, queries, positions, seen)
        with torch.autocast(q.device.type, enabled=False):
            return (weights @ values.to(weights.dtype)).to(values.dtype)

    def _weights(
        self, q: Tensor, keys: Tensor, queries: Tensor, positions: Tensor, seen: Tensor
    ) -> Tensor:
        """Attention weights [B, H, Q, K].

        Args:
            q: [B, H, Q, D].
            keys: [B, H, K, D].
            queries: [Q] positions.
            positions: [K], `NULL` for null keys, whose keys are zeros.
            seen: [Q, K] bool.
        """
        kind = torch.promote_types(q.dtype, torch.float32)
        apart = (queries[:, None] - positions).clamp(0, self.config.max_distance - 1)
        with torch.autocast(q.device.type, enabled=False):
            scores = q.to(kind) @ keys.to(kind).mT
            # All M distances of a query, then those of its keys: never a vector for each pair.
            relative = (q.to(kind) @ self.distances.to(kind).mT).gather(3, apart.expand_as(scores))
            scores = (scores + relative * (positions != NULL)) * q.shape[-1] ** -0.5
        # The lowest finite score, since a row of -inf alone would become NaN.
        return scores.masked_fill(~seen, torch.finfo(kind).min).softmax(-1) * seen


def _sight(queries: Tensor, nulls: int, count: int, pattern: Pattern) -> tuple[Tensor, Tensor]:
    """Positions of Z null keys and the first keys, [Z + K], and who sees them, [Q, Z + K] bool."""
    positions = torch.arange(-nulls, count, device=queries.device).clamp(min=NULL)
    return positions, pattern.mask(queries, positions) | (positions == NULL)
