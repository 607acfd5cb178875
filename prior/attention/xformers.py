"""Attention by the operator of the xformers library, over the folded pattern, on CUDA.

The library is an extra and is imported only where it would be used. Shapes:
B' sequences, H' heads, T' folded queries, K' folded keys, D width of a head, Z null keys of the
pattern; the operator wants [B', T', H', D].
"""

import functools
import importlib
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from prior.attention.base import AttentionKernel, AttentionRequest
from prior.attention.pattern import PATTERNS, Pattern

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
ALIGNMENT = 8
"""Widths of heads and rows of masks must be multiples of it, for tensor cores."""


class Xformers(AttentionKernel):
    """`memory_efficient_attention` (Lefaudeux et al. 2022, github.com/facebookresearch/xformers).

    Memory is linear in T, but for summaries and null keys, whose mask is [T', Z + K'].
    """

    # Below `flash`: PyTorch brings the same algorithms, and no library has to fit its version.
    rank = 8

    def why_not(self, request: AttentionRequest) -> str | None:
        """It serves patterns that can be folded, on CUDA, where the library is installed."""
        if request.device != "cuda":
            return f"its operator runs on CUDA only, and the device is {request.device}"
        if request.dtype not in DTYPES:
            return f"it has no {request.dtype}; there are: {', '.join(map(str, DTYPES))}"
        if request.pattern not in PATTERNS:
            return f"pattern {request.pattern!r} can't be folded into dense blocks"
        return _no_library()

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, pattern: Pattern) -> Tensor:
        """See `AttentionKernel`."""
        queries, keys, values = pattern.fold(q), pattern.fold_keys(k), pattern.fold_keys(v)
        # Zeros beyond D change no score, and zeros ahead are the null keys.
        extra, nulls = -q.shape[-1] % ALIGNMENT, pattern.nulls
        queries = _padded(queries, extra, 0)
        keys, values = (_padded(x, extra, nulls) for x in (keys, values))
        mixed = self._operate(queries, keys, values, pattern, scale=q.shape[-1] ** -0.5)
        return pattern.unfold(mixed[..., : q.shape[-1]], q.shape[0], q.shape[2])

    def _operate(self, q: Tensor, k: Tensor, v: Tensor, pattern: Pattern, scale: float) -> Tensor:
        """[B', H', T', D] and [B', H', Z + K', D] -> [B', H', T', D]."""
        if not k.shape[2]:
            return 0 * (q + k.sum() + v.sum())  # nothing to see, and still a function of all three
        library = _library()
        seen = None
        if pattern.causal and not pattern.nulls:
            bias = library.LowerTriangularMask()
        else:
            length = k.shape[2] - pattern.nulls
            seen = pattern.folded_mask(q.shape[2], length, q.device)
            bias = None if seen is None else _bias(seen, q)
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        mixed = library.memory_efficient_attention(q, k, v, attn_bias=bias, scale=scale)
        mixed = mixed.transpose(1, 2)
        if seen is None or pattern.nulls:
            return mixed
        # A bias is finite, so a query that sees nothing got the mean of everything.
        return mixed.masked_fill(~seen.any(-1, keepdim=True), 0)


@functools.lru_cache(maxsize=1)  # each attention of each layer asks
def _no_library() -> str | None:
    try:
        _library()
    except Exception as error:  # a library built for another PyTorch fails in its own ways
        return (
            f"the library xformers can't be imported ({type(error).__name__}: {error}): "
            "pip install 'jukebox-toolkit[xformers]'"
        )
    return None


def _library() -> Any:
    # By name, since a type checker can't follow a library that is not there.
    return importlib.import_module("xformers.ops")


def _padded(x: Tensor, extra: int, nulls: int) -> Tensor:
    """[B', H', K', D] -> [B', H', nulls + K', D + extra]."""
    return F.pad(x, (0, extra, nulls, 0)) if extra or nulls else x


def _bias(seen: Tensor, q: Tensor) -> Tensor:
    """A mask [T', Z + K'] as what is added to scores, [B', H', T', Z + K'].

    A row's memory is a whole number of aligned steps, of which the operator sees a part.
    """
    rows = F.pad(seen, (0, -seen.shape[1] % ALIGNMENT))
    bias = torch.zeros(rows.shape, dtype=q.dtype, device=q.device)
    # Half of the lowest number, which a change to another base of exponentials leaves finite.
    bias.masked_fill_(~rows, torch.finfo(q.dtype).min / 2)
    return bias[:, : seen.shape[1]].expand(*q.shape[:2], -1, -1)
