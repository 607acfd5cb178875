"""Relative attention: what a distance does, and memory that grows as the length does."""

import pytest
import torch
from jukebox_example.relative import TILE, Relative, RelativeConfig
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint

from prior.attention.base import LayerSite
from prior.attention.pattern import PATTERNS, SelfPattern, make_pattern

NAMES = [name for name, cls in PATTERNS.items() if issubclass(cls, SelfPattern)]


def relative(pattern: SelfPattern, far: int = 50, heads: int = 2, width: int = 8) -> Relative:
    torch.manual_seed(0)
    return Relative(RelativeConfig(max_distance=far), LayerSite(heads, width, pattern))


def qkv(length: int, batch: int = 2, heads: int = 2, width: int = 8) -> list[Tensor]:
    generator = torch.Generator().manual_seed(length)
    x = torch.randn(3, batch, heads, length, width, generator=generator)
    return [part.clone().requires_grad_() for part in x]


@pytest.mark.parametrize("name", NAMES)
def test_tiles_give_what_the_definition_gives(name: str) -> None:
    """Over several tiles, the last of them short, and in the middle of a block."""
    length = 2 * TILE + 11
    pattern = make_pattern(name, 160, 10, prefix=20, spread=2)
    attention, inputs = relative(pattern), qkv(length)
    weighed = torch.randn(2, 2, length, 8, generator=torch.Generator().manual_seed(1))
    results = []
    for compute in (attention, attention.oracle):
        out = compute(*inputs, pattern)
        leaves = [*inputs, attention.distances]
        results.append([out, *torch.autograd.grad((out * weighed).sum(), leaves)])
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, atol=2e-5, rtol=1e-4)


def test_a_vector_speaks_to_the_queries_at_its_distance() -> None:
    pattern = make_pattern("dense", 6, 1)
    attention = relative(pattern, far=4)
    with torch.no_grad():
        attention.distances.zero_()
        attention.distances[0, 2] = 100.0  # the first head looks two back
        attention.distances[1, 3] = 100.0  # the second as far back as there is
    q, k = torch.ones(1, 2, 6, 8), torch.zeros(1, 2, 6, 8)
    weights = attention.weights(q, k, pattern)[0].round(decimals=3)
    for query in range(2, 6):
        assert weights[0, query].tolist() == [float(key == query - 2) for key in range(6)]
    for query in range(3, 6):
        far = query - 2  # keys 0 to query - 3 share the last vector
        expected = torch.tensor([1 / far] * far + [0.0] * (6 - far)).round(decimals=3)
        assert torch.equal(weights[1, query], expected)
    assert torch.equal(weights[:, 0], torch.eye(6)[[0, 0]])


class Largest(TorchDispatchMode):
    """Notes the memory of the largest tensor that anything makes."""

    size = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        made = func(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves(made) if isinstance(leaf, Tensor)]
        self.size = max([self.size, *(t.untyped_storage().nbytes() for t in tensors)])
        return made


def memory(length: int, *, plain: bool) -> tuple[int, int]:
    """Bytes of the largest tensor of both passes, and bytes kept from the one for the other."""
    pattern = make_pattern("dense", length, 1)
    attention, inputs = relative(pattern), qkv(length, batch=1)
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with Largest() as largest:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            out = (attention.oracle if plain else attention)(*inputs, pattern)
        out.square().sum().backward()
    return largest.size, sum(kept.values())


def test_memory_grows_as_the_length_does() -> None:
    short, long = memory(1024, plain=False), memory(2048, plain=False)
    for once, twice in zip(short, long, strict=True):
        assert twice < 2.1 * once
    # What the definition takes, which the same measurement sees grow with the square.
    for once, twice in zip(memory(256, plain=True), memory(512, plain=True), strict=True):
        assert twice > 3.5 * once


def test_layers_may_be_computed_twice_around_it() -> None:
    """`prior.train --recompute` computes again what computes its tiles again."""
    pattern = make_pattern("dense", 100, 1)
    attention, inputs = relative(pattern), qkv(100)
    leaves = [*inputs, attention.distances]
    plain = attention(*inputs, pattern)
    nested = checkpoint(attention, *inputs, pattern, use_reentrant=False)
    for once, twice in zip(
        torch.autograd.grad(plain.square().sum(), leaves),
        torch.autograd.grad(nested.square().sum(), leaves),
        strict=True,
    ):
        torch.testing.assert_close(twice, once)


def test_half_precision_has_its_softmax_in_float32() -> None:
    pattern = make_pattern("row", 64, 2)
    attention, inputs = relative(pattern), [x.detach() for x in qkv(64)]
    exact = attention(*inputs, pattern)
    rough = attention.bfloat16()(*(x.bfloat16() for x in inputs), pattern)
    assert rough.dtype == torch.bfloat16
    assert (rough - exact).abs().max() < 0.05
