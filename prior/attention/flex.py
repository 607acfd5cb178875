"""Attention by PyTorch's flex_attention (Dong et al. 2024, arXiv 2412.05496), compiled.

It knows a pattern by its mask and no folding: the mask is cut into tiles, tiles in which nothing
is seen are skipped, and equal ones are kept once. The compiled code looks into them, so that it
is the same for all patterns. Shapes:
B batch, H heads, T queries, K keys, D width of a head, Z null keys of the pattern,
S positions of a tile, I tiles of queries, J tiles of null keys and keys, U tiles that are unlike.
"""

import functools
import importlib.util
import os
import shlex
import shutil
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from prior.attention.base import AttentionKernel, AttentionRequest
from prior.attention.pattern import Pattern

TILE = 128
"""S, on which flex_attention's kernels are built."""
NARROWEST = 16
"""Least D that its kernels for CUDA take."""
UNLIKE = 32
"""Least U, so that patterns that repeat themselves don't differ in it."""
NOTHING, EVERYTHING = bytes(TILE * TILE), bytes([True]) * (TILE * TILE)
"""Tiles as they lie in memory."""
COMPILATIONS = 64
"""For so many shapes and dtypes at most; PyTorch's own limit is 8."""
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
VECTORS = ("AVX2", "AVX512")


class Flex(AttentionKernel):
    """One compiled kernel for every pattern, a stranger's too.

    It is compiled for the shapes that come, lengths rounded up to 1, 2, 4, 8, ... tiles, at the
    cost of memory and of no time. Memory is linear in T, but for S x S bytes for each tile that is
    seen in part and unlike any other; patterns that repeat themselves have few.
    """

    # "auto" never compiles unasked: it takes seconds on a CPU, and minutes where a GPU is new.
    rank = 2

    def why_not(self, request: AttentionRequest) -> str | None:
        """It serves CUDA, and CPUs without gradients, where there is something to compile with."""
        if request.device not in ("cpu", "cuda"):
            return f"it is for CUDA and CPUs, and the device is {request.device}"
        if request.dtype not in DTYPES:
            return f"it has no {request.dtype}; there are: {', '.join(map(str, DTYPES))}"
        if request.device == "cpu" and request.grad:
            return "flex_attention has no backward pass on a CPU"
        return _no_compiler(request.device)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, pattern: Pattern) -> Tensor:
        """See `AttentionKernel`."""
        if not torch.is_grad_enabled():
            q, k, v = q.detach(), k.detach(), v.detach()
        nulls, length, width = pattern.nulls, q.shape[2], q.shape[3]
        mask = block_mask(pattern, length, k.shape[2], q.device)
        mixed = _compiled()(
            _padded(q, 0),
            _padded(k, nulls),
            _padded(v, nulls),
            block_mask=mask,
            scale=width**-0.5,
        )
        return mixed[:, :, :length, :width]


@functools.lru_cache  # each attention of each layer asks
def _no_compiler(device: str) -> str | None:
    """What is missing to compile for a device."""
    if device == "cuda":
        missing = importlib.util.find_spec("triton") is None
        return "it is compiled by triton, which is not installed" if missing else None
    if sys.platform != "linux" or torch.backends.cpu.get_cpu_capability() not in VECTORS:
        return "on CPUs, PyTorch compiles it for Linux and AVX2 only"
    compiler = shlex.split(os.environ.get("CXX", "g++"))[0]
    if shutil.which(compiler) is None:
        return f"on a CPU it is compiled by a C++ compiler, and {compiler} is not installed"
    if not (Path(sysconfig.get_path("include")) / "Python.h").exists():
        return "on a CPU it is compiled with the headers of Python, which are not installed"
    return None


@functools.lru_cache(maxsize=1)
def _compiled() -> Callable[..., Tensor]:
    # Shapes are constants: code for shapes that vary does not always compile on a CPU. And
    # a whole graph or none: past the limit there would be slow code and all scores in memory.
    made = torch.compile(flex_attention, dynamic=False, fullgraph=True)
    limited: Callable[..., Tensor] = torch._dynamo.config.patch(cache_size_limit=COMPILATIONS)(made)
    return limited


def _padded(x: Tensor, ahead: int) -> Tensor:
    """[B, H, K, D] -> [B, H, J x S, D], zeros around: `ahead` null keys, and what is never seen."""
    length = ahead + x.shape[2]
    return F.pad(x, (0, max(0, NARROWEST - x.shape[3]), ahead, TILE * _tiles(length) - length))


def _tiles(length: int) -> int:
    """I or J."""
    return _rounded(-(-length // TILE))


def _rounded(count: int) -> int:
    """Up to a power of two."""
    return 1 << max(0, count - 1).bit_length()


@functools.lru_cache(maxsize=64)
def block_mask(pattern: Pattern, queries: int, keys: int, device: torch.device) -> BlockMask:
    """What a pattern shows of Z null keys and K keys to T queries, in whole tiles."""
    with torch.inference_mode(False):  # it is kept, and training may come after sampling
        shape = (_tiles(queries), _tiles(pattern.nulls + keys))
        number = torch.zeros(shape, dtype=torch.int64)
        unlike = {NOTHING: 0, EVERYTHING: 1}
        for i, positions in enumerate(torch.arange(queries, device=device).split(TILE)):
            for j, tile in enumerate(_strip(pattern, positions, keys).cpu().numpy()):
                number[i, j] = unlike.setdefault(tile.tobytes(), len(unlike))
        return BlockMask.from_kv_blocks(
            *_listed(number > 1, device),
            *_listed(number == 1, device),
            BLOCK_SIZE=TILE,
            mask_mod=_looked_up(number.to(device), _stacked([*unlike]).to(device)),
        )


def _strip(pattern: Pattern, queries: Tensor, keys: int) -> Tensor:
    """What up to S queries see of Z null keys and K keys: bool [J, S, S]."""
    seen = pattern.mask(queries, torch.arange(keys, device=queries.device))
    seen = F.pad(seen, (pattern.nulls, 0), value=True)
    missing = (0, TILE * _tiles(seen.shape[1]) - seen.shape[1], 0, TILE - len(queries))
    return F.pad(seen, missing).view(TILE, -1, TILE).transpose(0, 1).contiguous()


def _stacked(tiles: list[bytes]) -> Tensor:
    """Bool [U, S, S]."""
    count = max(UNLIKE, _rounded(len(tiles)))
    numbers = bytearray(b"".join(tiles).ljust(count * len(NOTHING), b"\0"))
    return torch.frombuffer(numbers, dtype=torch.bool).view(count, TILE, TILE)


def _listed(tiles: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """Bool [I, J] -> how many in each row, [1, 1, I], and which, [1, 1, I, J], those first."""
    count, which = tiles.sum(-1), tiles.int().argsort(dim=-1, descending=True, stable=True)
    return count[None, None].int().to(device), which[None, None].int().to(device)


def _looked_up(
    number: Tensor, unlike: Tensor
) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    """A mask of which [I, J] says where in [U, S, S] each tile is."""

    def seen(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return unlike[number[query // TILE, key // TILE], query % TILE, key % TILE]

    return seen
