"""`sparse` on every pattern, whoever's, and the memory that it takes."""

import pytest
import torch
from attending import Ahead, Echo, assert_naive, qkv
from torch.utils._python_dispatch import TorchDispatchMode

from prior.attention.kernels import Naive
from prior.attention.pattern import PATTERNS, make_pattern
from prior.attention.sparse import TILE, Sparse, tiles

CPU = torch.device("cpu")
OF_ALL_TILES = [1, TILE - 1, TILE, TILE + 1, 3 * TILE - 20]


@pytest.mark.parametrize("nulls", [0, 2])
@pytest.mark.parametrize("name", PATTERNS)
def test_whatever_tiles_cut_it_is_naive(name, nulls):
    pattern = PATTERNS[name](50, 8, nulls)
    for length in OF_ALL_TILES:
        assert_naive(Sparse(), pattern, length, batch=1, heads=2)


@pytest.mark.parametrize("pattern", [Echo(7, 60), Echo(7, 60, 1), Ahead(7, 60), Ahead(7, 60, 2)])
def test_it_serves_strangers_patterns(pattern):
    for length in OF_ALL_TILES:
        assert_naive(Sparse(), pattern, length, batch=1)


@pytest.mark.parametrize("keys", [1, 5, 300])
@pytest.mark.parametrize("pattern", [PATTERNS["memory"](7, 60), PATTERNS["memory"](7, 60, 1)])
def test_keys_may_be_those_of_another_sequence(pattern, keys):
    for length in (1, 200):
        assert_naive(Sparse(), pattern, length, keys=keys)
    assert_naive(Sparse(), Ahead(7, 60), 200, keys=keys)


@pytest.mark.parametrize(
    ("name", "share"),
    # The paper's shape, 8192 positions in 128 blocks: what part of all scores is computed.
    [
        ("dense", 0.51),
        ("row", 1 / 64),
        ("column", 1 / 64),
        ("previous", 1 / 64),
        ("summary", 0.01),
        ("spread", 0.01),
        ("prefix", 1 / 64),
    ],
)
def test_no_scores_are_computed_where_nothing_is_seen(name, share):
    walk = tiles(make_pattern(name, 8192, 128, prefix=50), 8192, 8192, CPU)
    positions = torch.arange(8192)
    scores = [len(positions[tile.queries]) * len(positions[tile.keys]) for tile in walk]
    assert sum(scores) <= share * 8192**2


class Largest(TorchDispatchMode):
    """Elements of the largest tensor that anything makes."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor):
            self.numel = max(self.numel, made.numel())
        return made


def memory(kernel, pattern, length):
    """Elements kept for the backward pass, and of the largest tensor forward and backward."""
    inputs, kept, largest = qkv(length, 1, 2, 4), 0, Largest()

    def count(tensor):
        nonlocal kept
        kept += tensor.numel()
        return tensor

    with largest, torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        kernel(*inputs, pattern).sum().backward()
    return kept, largest.numel


@pytest.mark.parametrize("name", [*PATTERNS, "echo"])
def test_memory_is_linear_forward_and_backward(name):
    made = {"echo": Echo(32, 64)}.get(name) or make_pattern(name, 2048, 64, prefix=40)
    short, long = (memory(Sparse(), made, length) for length in (1024, 2048))
    assert all(after <= 2.1 * before for before, after in zip(short, long, strict=True))
    short, long = (memory(Naive(), made, length) for length in (1024, 2048))
    assert all(after >= 3.5 * before for before, after in zip(short, long, strict=True))


def test_autocast_does_not_touch_it():
    pattern, inputs = PATTERNS["row"](50, 6), qkv(300)
    expected = Sparse()(*inputs, pattern)
    with torch.autocast("cpu", torch.bfloat16):
        out = Sparse()(*inputs, pattern)
        gradients = torch.autograd.grad(out.sum(), inputs)
    assert torch.equal(out, expected)
    for got, wanted in zip(gradients, torch.autograd.grad(expected.sum(), inputs), strict=True):
        assert torch.equal(got, wanted)
