"""How attention over a pattern is computed; it knows no network and no parameters.

Kernels come by name through the registry and can be swapped at any time: all compute the same
function. `naive` is the oracle. Shapes:
B batch, H heads, T queries, K keys (as many as queries, unless they come from a memory), D width
of a head, Z null keys of the pattern.
"""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from plugins import registry
from plugins.ground.errors import InputError
from prior.attention.base import AttentionKernel, AttentionRequest, LayerAttention
from prior.attention.pattern import PATTERNS, Pattern

AUTO = "auto"


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
    """`naive` that keeps its weights: for one layer of one pass.

    Args:
        there: as `Masked`.
        own: the layer's own attention, if it has one, whose weights they then are.
    """

    recorded: Tensor
    """[B, H, T, K], without the null keys and not renormalised; K ends at the horizon."""

    def __init__(self, there: Tensor | None = None, own: LayerAttention | None = None) -> None:
        super().__init__(there)
        self.own = own

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, pattern: Pattern) -> Tensor:
        """See `AttentionKernel`."""
        k, v = k[:, :, : pattern.horizon], v[:, :, : pattern.horizon]
        weights = (self.own or self).weights(q, k, pattern)
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
    """The kernel of that name, or for "auto" the fastest that can serve.

    Raises:
        InputError: no such kernel, or it can't serve this (says why).
    """
    if name != AUTO:
        cls = registry.get(registry.ATTENTION, name)
        reason = (
            "it has parameters of its own, so a prior must be trained with it (prior.train "
            f"--attention {name})"
            if issubclass(cls, LayerAttention)
            else cls().why_not(request)
        )
        if reason is not None:
            raise InputError(f"attention kernel {name!r} can't serve this: {reason}")
        return cast(AttentionKernel, cls())
    able = [kernel for kernel in _loadable() if kernel.why_not(request) is None]
    if not able:
        raise InputError(f"no attention kernel can serve {request}")
    return max(able, key=lambda kernel: kernel.rank)


def _loadable() -> Iterator[AttentionKernel]:
    """Every kernel that can be imported: a stranger's broken one is warned about."""
    for name in registry.plugins(registry.ATTENTION):
        try:
            cls = registry.get(registry.ATTENTION, name)
        except InputError as error:
            warnings.warn(f"ignoring attention kernel {name!r}: {error}", stacklevel=3)
            continue
        if issubclass(cls, AttentionKernel):
            yield cls()


@dataclass(frozen=True)
class Chosen:
    """An `Attend` that looks at each request anew, as device, dtype and gradients come."""

    name: str = AUTO

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, pattern: Pattern) -> Tensor:
        """See `AttentionKernel`.

        Raises:
            InputError: the kernel can't do what it claims.
        """
        request = AttentionRequest.of(q, pattern)
        kernel = choose(self.name, request)
        try:
            mixed = kernel(q, k, v, pattern)
        except (InputError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            raise InputError(_broken_promise(kernel, request, error)) from error
        if mixed.shape != q.shape or mixed.dtype != q.dtype:
            made = f"it made {list(mixed.shape)} {mixed.dtype} of {list(q.shape)} {q.dtype}"
            raise InputError(_broken_promise(kernel, request, made))
        return mixed


def _broken_promise(kernel: AttentionKernel, request: AttentionRequest, what: object) -> str:
    first = str(what).partition("\n")[0]
    return (
        f"attention kernel {registry.origin(type(kernel))} said that it can serve pattern "
        f"{request.pattern!r} on {request.device} in {request.dtype}, but it can't: {first}: "
        "choose another with --attention"
    )
