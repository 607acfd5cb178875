"""How attention over a pattern is computed; it knows no network and no parameters.

Kernels come by name through the registry and can be swapped at any time: all compute the same
function. `naive` is the oracle. Shapes:
B batch, H heads, T queries, K keys (as many as queries, unless they come from a memory), D width
of a head, Z null keys of the pattern.
"""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from plugins import registry
from plugins.ground.errors import InputError
from prior.attention.pattern import PATTERNS, Pattern

Attend = Callable[[Tensor, Tensor, Tensor, Pattern], Tensor]
"""What a layer calls: (q, k, v, pattern) -> [B, H, T, D]; q [B, H, T, D], k and v [B, H, K, D]."""

AUTO = "auto"


@dataclass(frozen=True)
class AttentionRequest:
    """What a kernel is to serve."""

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
    """Softmax attention with scale 1 / sqrt(D) over the keys that a pattern shows."""

    exact: ClassVar[bool] = True
    """It computes what `naive` computes, up to rounding. Only such kernels can be swapped."""
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


class Naive(AttentionKernel):
    """The definition: all scores, a mask, a softmax in at least float32. Memory grows as T^2."""

    rank = 0

    def why_not(self, request: AttentionRequest) -> str | None:
        """It serves everything."""
        return None

    def weights(self, q: Tensor, k: Tensor, pattern: Pattern) -> Tensor:
        """Attention weights [B, H, T, Z + K]; rows of queries that see nothing are zeros."""
        nulls = pattern.nulls
        kind = torch.promote_types(q.dtype, torch.float32)
        with torch.autocast(q.device.type, enabled=False):
            keys = F.pad(k, (0, 0, nulls, 0)).to(kind)
            scores = q.to(kind) @ keys.transpose(-1, -2) * q.shape[-1] ** -0.5
        seen = F.pad(self._seen(q, k, pattern), (nulls, 0), value=True)
        # The lowest finite score, since a row of -inf alone would become NaN.
        return scores.masked_fill(~seen, torch.finfo(kind).min).softmax(-1) * seen

    def _seen(self, q: Tensor, k: Tensor, pattern: Pattern) -> Tensor:
        """Bool that broadcasts to [B, H, T, K]."""
        queries = torch.arange(q.shape[2], device=q.device)
        return pattern.mask(queries, torch.arange(k.shape[2], device=q.device))

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, pattern: Pattern) -> Tensor:
        """See `AttentionKernel`."""
        return self._mix(self.weights(q, k, pattern), v, pattern)

    @staticmethod
    def _mix(weights: Tensor, v: Tensor, pattern: Pattern) -> Tensor:
        with torch.autocast(v.device.type, enabled=False):
            return (weights[..., pattern.nulls :] @ v.to(weights.dtype)).to(v.dtype)


class Masked(Naive):
    """`naive` where some keys are missing from some items: of one memory, for one pass.

    Args:
        there: bool [B, K], False where there is nothing to see; None: all of it.
    """

    def __init__(self, there: Tensor | None = None) -> None:
        self.there = there

    def _seen(self, q: Tensor, k: Tensor, pattern: Pattern) -> Tensor:
        seen = super()._seen(q, k, pattern)
        return seen if self.there is None else seen & self.there[:, None, None]


class Recording(Masked):
    """`naive` that keeps its weights: for one layer of one pass."""

    recorded: Tensor
    """[B, H, T, K], without the null keys and not renormalised; K ends at the horizon."""

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, pattern: Pattern) -> Tensor:
        """See `AttentionKernel`."""
        k, v = k[:, :, : pattern.horizon], v[:, :, : pattern.horizon]
        weights = self.weights(q, k, pattern)
        self.recorded = weights[..., pattern.nulls :]
        return self._mix(weights, v, pattern)


class Flash(AttentionKernel):
    """PyTorch's fused attention over the folded pattern, on any device.

    Memory is linear in T, but for summaries, whose mask is [T, Z + K'].
    """

    rank = 10

    def why_not(self, request: AttentionRequest) -> str | None:
        """It serves patterns that can be folded."""
        if request.pattern not in PATTERNS:
            return f"pattern {request.pattern!r} can't be folded into dense blocks"
        return None

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, pattern: Pattern) -> Tensor:
        """See `AttentionKernel`."""
        queries, keys, values = pattern.fold(q), pattern.fold_keys(k), pattern.fold_keys(v)
        nulls, length = pattern.nulls, keys.shape[2]
        if nulls:
            keys, values = F.pad(keys, (0, 0, nulls, 0)), F.pad(values, (0, 0, nulls, 0))
        plain = pattern.causal and not nulls
        mask = None if plain else pattern.folded_mask(queries.shape[2], length, q.device)
        mixed = F.scaled_dot_product_attention(
            queries, keys, values, attn_mask=mask, is_causal=plain
        )
        return pattern.unfold(mixed, q.shape[0], q.shape[2])


def choose(name: str, request: AttentionRequest) -> AttentionKernel:
    """The kernel of that name, or for "auto" the fastest exact one that can serve.

    Raises:
        InputError: no such kernel, or it can't serve this (says why).
    """
    if name != AUTO:
        kernel = registry.get(registry.ATTENTION, name)()
        reason = kernel.why_not(request)
        if reason is None and not kernel.exact:
            reason = "it computes another function and owns its layers"
        if reason is not None:
            raise InputError(f"attention kernel {name!r} can't serve this: {reason}")
        return kernel
    able = [kernel for kernel in _loadable() if kernel.exact and kernel.why_not(request) is None]
    if not able:
        raise InputError(f"no attention kernel can serve {request}")
    return max(able, key=lambda kernel: kernel.rank)


def _loadable() -> Iterator[AttentionKernel]:
    """Every kernel that can be imported: a stranger's broken one is warned about."""
    for name in registry.plugins(registry.ATTENTION):
        try:
            yield registry.get(registry.ATTENTION, name)()
        except InputError as error:
            warnings.warn(f"ignoring attention kernel {name!r}: {error}", stacklevel=3)


@dataclass(frozen=True)
class Chosen:
    """An `Attend` that looks at each request anew, as device, dtype and gradients come."""

    name: str = AUTO

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, pattern: Pattern) -> Tensor:
        """See `AttentionKernel`."""
        return choose(self.name, AttentionRequest.of(q, pattern))(q, k, v, pattern)
