"""What kernels are tried on: patterns of all kinds, queries, keys and values, and a comparison."""

from dataclasses import dataclass

import torch

from prior.attention.kernels import Naive
from prior.attention.pattern import PATTERNS, Pattern, make_pattern

BLOCK, BLOCKS = 4, 3
PATTERNS_OF_ALL_KINDS = [
    *(cls(BLOCK, BLOCKS, nulls) for cls in PATTERNS.values() for nulls in (0, 1, 3)),
    *(make_pattern(name, 12, 3, prefix=2, spread=3) for name in ("summary", "spread", "prefix")),
]
LENGTHS = [1, 3, 4, 5, 7, 8, 11, 12]
NEAR = {
    torch.float64: {"atol": 1e-12, "rtol": 1e-10},
    torch.float32: {"atol": 2e-6, "rtol": 1e-5},
    torch.bfloat16: {"atol": 2e-2, "rtol": 2e-2},
    torch.float16: {"atol": 2e-3, "rtol": 2e-3},
}


@dataclass(frozen=True)
class Echo(Pattern):
    """A stranger's, which can't be folded: itself, and what lies a power of two before it."""

    name = "echo"

    def mask(self, queries, keys):
        distance = queries[:, None] - keys
        return (distance >= 0) & (distance & (distance - 1) == 0)

    def fold(self, x):
        raise NotImplementedError

    def unfold(self, x, batch, length):
        raise NotImplementedError


@dataclass(frozen=True)
class Ahead(Echo):
    """Another stranger's, which looks into the future, and where some see nothing."""

    name = "ahead"

    def mask(self, queries, keys):
        return (keys > queries[:, None]) & (queries[:, None] % 3 > 0)


def qkv(length, batch=2, heads=3, width=5, dtype=torch.float32, keys=None):
    """As projections leave them: views of [B, T, 3, H, D]. Keys and values may be others'."""
    generator = torch.Generator().manual_seed(length + 100 * batch)

    def projected(count):
        x = torch.randn(batch, count, 3, heads, width, generator=generator).to(dtype)
        return [t.detach().requires_grad_() for t in x.permute(2, 0, 3, 1, 4).unbind(0)]

    q, k, v = projected(length)
    return [q, k, v] if keys is None else [q, *projected(keys)[1:]]


def assert_naive(kernel, pattern, *shape, **given):
    """The kernel's values and gradients are those of `naive`."""
    results = []
    for one in (Naive(), kernel):
        inputs = qkv(*shape, **given)
        out = one(*inputs, pattern)
        weights = torch.linspace(-1, 1, out.numel()).view(out.shape).to(out.dtype)
        gradients = torch.autograd.grad((out * weights).sum(), inputs)
        results.append([out, *gradients])
    for expected, got in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, **NEAR[expected.dtype])
