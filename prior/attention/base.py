"""The seams of attention: kernels that can be swapped, and attention that belongs to a layer.

It knows no network and computes nothing. Shapes:
B batch, H heads, T queries, K keys (as many as queries, unless they come from a memory or a
cache), D width of a head, Z null keys of the pattern.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from pydantic import BaseModel
from torch import Tensor, nn

from plugins.ground.errors import InputError
from prior.attention.pattern import Pattern, SelfPattern

Attend = Callable[[Tensor, Tensor, Tensor, Pattern], Tensor]
"""What a layer calls: (q, k, v, pattern) -> [B, H, T, D]; q [B, H, T, D], k and v [B, H, K, D]."""


@dataclass(frozen=True)
class AttentionRequest:
    """What is to be served."""

    device: str
    """Type of the device: "cpu", "cuda", "mps", ..."""
    dtype: torch.dtype
    pattern: str
    grad: bool
    """Gradients will be asked for."""

    @classmethod
    def of(cls, q: Tensor, pattern: Pattern) -> "AttentionRequest":
        """The request that attention for these queries makes."""
        grad = torch.is_grad_enabled() and q.requires_grad
        return cls(q.device.type, q.dtype, pattern.name, grad)


class AttentionKernel(ABC):
    """Softmax attention with scale 1 / sqrt(D) over the keys that a pattern shows.

    All kernels compute what `naive` computes, up to rounding, so that they can be swapped at any
    time on the same weights. A kernel is built without arguments.
    """

    rank: ClassVar[int] = 0
    """"auto" takes the highest that can serve."""

    @abstractmethod
    def why_not(self, request: AttentionRequest) -> str | None:
        """Why it can't serve a request, or None if it can."""

    @abstractmethod
    def __call__(self, q: Tensor, k: Tensor, v: Tensor, pattern: Pattern) -> Tensor:
        """Queries [B, H, T, D], keys and values [B, H, K, D] from position 0 on -> [B, H, T, D].

        A query that sees nothing gets zeros.
        """


@dataclass(frozen=True)
class LayerSite:
    """The layer that an attention is built for."""

    heads: int
    """H."""
    width: int
    """D."""
    pattern: SelfPattern


class LayerAttention(nn.Module, ABC):
    """Attention that owns parameters or computes another function than the kernels do.

    It is built for each layer that looks at its own sequence, its name and config are kept in the
    checkpoint, and no kernel can stand in for it. Layers that read a memory attend by kernels.

    Args:
        config: settings of this kind of attention.
        site: the layer.

    Raises:
        InputError: it can't serve the site's pattern.
    """

    Config: ClassVar[type[BaseModel]]

    def __init__(self, config: Any, site: LayerSite) -> None:
        super().__init__()
        self.config = config
        self.site = site

    @classmethod
    @abstractmethod
    def why_not(cls, request: AttentionRequest) -> str | None:
        """Why it can't serve a request, or None if it can."""

    @abstractmethod
    def oracle(self, q: Tensor, k: Tensor, v: Tensor, pattern: Pattern) -> Tensor:
        """The definition, as plain as can be: what `forward` is compared with."""

    @abstractmethod
    def forward(self, q: Tensor, k: Tensor, v: Tensor, pattern: Pattern) -> Tensor:
        """Queries, keys and values [B, H, T, D] of positions 0..T-1 -> [B, H, T, D].

        `pattern` is the site's, maybe over fewer blocks.
        """

    @abstractmethod
    def step(
        self, q: Tensor, keys: Tensor, values: Tensor, positions: Tensor, position: int
    ) -> Tensor:
        """One query [B, H, 1, D] against what a cache holds for it -> [B, H, 1, D].

        Args:
            q: of the position.
            keys: [B, H, K, D], those that the query sees, its own among them; K is at least 1.
            values: of the same positions.
            positions: [K] int64 of the keys, in any order; -1 for a null key (zeros).
            position: of the query.
        """

    def weights(self, q: Tensor, k: Tensor, pattern: Pattern) -> Tensor:
        """Attention weights [B, H, T, Z + K], for those who record where a layer looks.

        Raises:
            InputError: this kind of attention has none.
        """
        raise InputError(f"{type(self).__name__} has no attention weights that could be recorded")
