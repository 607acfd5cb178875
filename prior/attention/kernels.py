"""How attention over a pattern is computed; it knows no network and no parameters.

Kernels come by name through the registry and can be swapped at any time: all compute the same
function. `naive` is the oracle. Shapes:
B batch, H heads, T queries, K keys (as many as queries, unless they come from a memory), D width
of a head, Z null keys of the pattern.
"""

import warnings
from dataclasses import dataclass

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
    return _able(name, request)[0]


def _able(name: str, request: AttentionRequest) -> list[AttentionKernel]:
    """The kernel of that name; for "auto" all that can serve, the fastest first."""
    if name != AUTO:
        cls = registry.get(registry.ATTENTION, name)
        if issubclass(cls, LayerAttention):
            raise InputError(
                f"attention {name!r} has parameters of its own, so a prior must be trained with it "
                f"(prior.train --attention {name}); it can't serve this one"
            )
        kernel, reason = _asked(cls, request)
        if reason is not None:
            raise InputError(f"attention kernel {name!r} can't serve this: {reason}")
        return [kernel]
    able = []
    for other in registry.plugins(registry.ATTENTION):
        try:
            cls = registry.get(registry.ATTENTION, other)
            if issubclass(cls, LayerAttention):
                continue
            kernel, reason = _asked(cls, request)
        except InputError as error:  # nobody asked for a stranger's broken one
            warnings.warn(f"ignoring attention kernel {other!r}: {error}", stacklevel=4)
            continue
        if reason is None:
            able.append(kernel)
    if not able:
        raise InputError(f"no attention kernel can serve {request}")
    return sorted(able, key=lambda kernel: -kernel.rank)


def _asked(
    cls: type[AttentionKernel], request: AttentionRequest
) -> tuple[AttentionKernel, str | None]:
    """A kernel, and why it can't serve."""
    with registry.blaming(cls, "say what it can serve"):
        kernel = cls()
        return kernel, kernel.why_not(request)


@dataclass(frozen=True)
class Chosen:
    """An `Attend` that looks at each request anew, as device, dtype and gradients come."""

    name: str = AUTO

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, pattern: Pattern) -> Tensor:
        """See `AttentionKernel`. Where "auto" meets one that lies, the next one serves.

        Raises:
            InputError: the kernel of that name can't do what it claims.
        """
        request = AttentionRequest.of(q, pattern)
        *others, last = _able(self.name, request)
        for kernel in others:
            try:
                return _attended(kernel, request, q, k, v, pattern)
            except InputError as error:
                warnings.warn(f"taking another kernel: {error}", stacklevel=2)
        return _attended(last, request, q, k, v, pattern)


def _attended(
    kernel: AttentionKernel,
    request: AttentionRequest,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    pattern: Pattern,
) -> Tensor:
    """What a kernel computes, if it is what it should be."""
    claim = f"serve pattern {request.pattern!r} on {request.device} in {request.dtype}, as it says"
    with registry.blaming(type(kernel), claim):
        mixed = kernel(q, k, v, pattern)
        if mixed.shape != q.shape or mixed.dtype != q.dtype:
            made = f"{list(mixed.shape)} {mixed.dtype} of {list(q.shape)} {q.dtype}"
            raise TypeError(f"it made {made}")
    return mixed
