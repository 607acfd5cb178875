"""Kernels against `naive`, and `naive` against a loop over queries."""

import itertools
import math

import pytest
import torch
from attending import BLOCK, BLOCKS, LENGTHS, NEAR, PATTERNS_OF_ALL_KINDS, assert_naive, qkv

from plugins import registry
from plugins.ground.errors import InputError
from prior.attention.kernels import AttentionRequest, Chosen, Flash, Naive, Recording, choose
from prior.attention.pattern import PATTERNS, make_pattern
from prior.attention.sparse import Sparse

CPU = AttentionRequest("cpu", torch.float32, "row", grad=True)
STRANGE = AttentionRequest("cpu", torch.float32, "spiral", grad=False)
FAST = pytest.mark.parametrize("kernel", [Flash(), Sparse()], ids=["flash", "sparse"])
ALL = pytest.mark.parametrize(
    "kernel", [Naive(), Flash(), Sparse()], ids=["naive", "flash", "sparse"]
)


def one_by_one(q, k, v, pattern):
    """Attention as the paper has it: for each query, a softmax over what it sees."""
    out = torch.zeros_like(q)
    null = torch.zeros(pattern.nulls)
    for b, h, t in itertools.product(*map(range, q.shape[:3])):
        seen = pattern.mask(torch.tensor([t]), torch.arange(q.shape[2]))[0]
        scores = k[b, h, seen] @ q[b, h, t] / math.sqrt(q.shape[3])
        weights = torch.cat([null, scores]).softmax(0)[pattern.nulls :]
        out[b, h, t] = weights @ v[b, h, seen]
    return out


@pytest.mark.parametrize("pattern", PATTERNS_OF_ALL_KINDS, ids=repr)
def test_naive_is_attention_query_by_query(pattern):
    for length in LENGTHS:
        q, k, v = (t.detach() for t in qkv(length))
        torch.testing.assert_close(Naive()(q, k, v, pattern), one_by_one(q, k, v, pattern))


@FAST
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("pattern", PATTERNS_OF_ALL_KINDS, ids=repr)
def test_every_kernel_is_naive_in_values_and_gradients(kernel, pattern, batch):
    for length in LENGTHS:
        assert_naive(kernel, pattern, length, batch)


@FAST
@pytest.mark.parametrize("name", PATTERNS)
def test_every_kernel_is_naive_at_length(kernel, name):
    """Long enough for them to work in tiles, and no whole number of blocks."""
    pattern = make_pattern(name, 96 * 7, 7, prefix=50, spread=5)
    q, k, v = (t.detach() for t in qkv(600, 1, 2, 32))
    torch.testing.assert_close(
        kernel(q, k, v, pattern), Naive()(q, k, v, pattern), **NEAR[torch.float32]
    )


@FAST
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_every_kernel_is_naive_in_every_precision(kernel, dtype):
    for name in PATTERNS:
        assert_naive(kernel, make_pattern(name, 24, 3, prefix=7, spread=3), 21, dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_naive_has_its_softmax_in_float32(dtype):
    pattern = PATTERNS["dense"](BLOCK, BLOCKS)
    q, k, v = (t.detach() for t in qkv(12, dtype=dtype))
    exact = Naive()(q.double(), k.double(), v.double(), pattern)
    got = Naive()(q, k, v, pattern)
    assert got.dtype == dtype
    assert (got - exact).abs().max() < 0.01
    # Weights in half precision would be off by more.
    assert (Naive().weights(q, k, pattern).sum(-1) - 1).abs().max() < 1e-6


@ALL
def test_a_query_that_sees_nothing_gets_zeros(kernel):
    q, k, v = qkv(9)
    out = kernel(q, k, v, PATTERNS["previous"](BLOCK, BLOCKS))
    assert not out[:, :, :BLOCK].any()
    assert out[:, :, BLOCK:].abs().min() > 0
    gradients = torch.autograd.grad(out.sum(), [q, k, v])
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_recording_keeps_weights_without_null_keys():
    pattern = PATTERNS["row"](BLOCK, BLOCKS, nulls=1)
    q, k, v = (t.detach() for t in qkv(10))
    kernel = Recording()
    out = kernel(q, k, v, pattern)
    torch.testing.assert_close(out, Naive()(q, k, v, pattern))
    assert kernel.recorded.shape == (2, 3, 10, 10)
    torch.testing.assert_close(kernel.recorded @ v, out)
    assert (kernel.recorded.sum(-1) < 1).all()


@pytest.mark.parametrize("keys", [1, 5, 20])
@ALL
def test_a_memory_may_be_of_any_length(kernel, keys):
    pattern = PATTERNS["memory"](BLOCK, BLOCKS)
    q, (_, k, v) = qkv(10)[0].detach(), (t.detach() for t in qkv(keys))
    weights = (q @ k.mT / math.sqrt(5)).softmax(-1)
    torch.testing.assert_close(kernel(q, k, v, pattern), weights @ v)


def test_holes_in_a_memory_are_not_seen():
    pattern = PATTERNS["memory"](BLOCK, BLOCKS)
    q, (_, k, v) = qkv(10)[0].detach(), (t.detach() for t in qkv(6))
    there = torch.tensor([[True, True, False, True, False, False], [False] * 6])
    kernel = Recording(there)
    out = kernel(q, k, v, pattern)
    seen = [0, 1, 3]
    expected = Flash()(q[:1], k[:1, :, seen], v[:1, :, seen], pattern)
    torch.testing.assert_close(out[:1], expected)
    assert not out[1].any()
    assert not kernel.recorded[0, :, :, 2].any()


def test_recording_ends_where_a_pattern_looks_no_further():
    pattern = make_pattern("prefix", 12, 3, prefix=4)
    q, k, v = (t.detach() for t in qkv(12))
    kernel = Recording()
    torch.testing.assert_close(kernel(q, k, v, pattern), Naive()(q, k, v, pattern))
    assert kernel.recorded.shape == (2, 3, 12, 6)
    torch.testing.assert_close(kernel.recorded, Naive().weights(q, k, pattern)[..., :6])


def test_auto_takes_the_fastest_that_can_serve():
    assert isinstance(choose("auto", CPU), Flash)
    assert isinstance(choose("auto", STRANGE), Sparse)
    half = AttentionRequest("cpu", torch.bfloat16, "row", grad=False)
    assert isinstance(choose("auto", half), Flash)


def test_a_named_kernel_that_can_not_serve_says_why():
    with pytest.raises(
        InputError, match="'flash' can't serve this: pattern 'spiral' can't be fold"
    ):
        choose("flash", STRANGE)
    with pytest.raises(InputError, match=r"no 'flsh' in jukebox.attention.*mean 'flash'"):
        choose("flsh", CPU)


STRANGER = r"""
import torch
from pydantic import BaseModel
from prior.attention.base import LayerAttention
from prior.attention.kernels import Naive

class Picky(Naive):
    rank = 99
    def why_not(self, request):
        return "it has no backward pass" if request.grad else None

class Own(LayerAttention):
    Config = BaseModel
    why_not = classmethod(lambda cls, request: None)
    oracle = forward = step = None

class Unbuilt(Naive):
    rank = 98
    def __init__(self, nothing):
        pass

class Boastful(Naive):
    def __call__(self, q, k, v, pattern):
        if q.dtype == torch.float64:
            raise ArithmeticError("no doubles\nof any kind")
        return super().__call__(q, k, v, pattern)[..., :1]
"""


@pytest.fixture
def strangers(tmp_path, monkeypatch):
    """An installed package: kernels that are picky, boastful and broken, an attention of layers."""
    (tmp_path / "stranger_kernels.py").write_text(STRANGER)
    info = tmp_path / "stranger_kernels-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Name: stranger-kernels\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        f"[{registry.ATTENTION}]\npicky = stranger_kernels:Picky\n"
        "own = stranger_kernels:Own\nunbuilt = stranger_kernels:Unbuilt\n"
        "boastful = stranger_kernels:Boastful\n"
        "broken = stranger_kernels:Missing\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.usefixtures("strangers")
def test_kernels_of_strangers_are_asked_and_a_broken_one_is_not_fatal():
    without_grad = AttentionRequest("cpu", torch.float32, "row", grad=False)
    with pytest.warns(UserWarning, match="ignoring attention kernel 'broken'"):
        assert type(choose("auto", without_grad)).__name__ == "Picky"
    with pytest.warns(UserWarning, match="ignoring attention kernel 'broken'"):
        assert isinstance(choose("auto", CPU), Flash)
    with pytest.warns(UserWarning, match="ignoring attention kernel 'unbuilt'"):
        choose("auto", CPU)
    with pytest.raises(
        InputError, match=r"'unbuilt'.*stranger-kernels 1\.0 can't say what it can serve"
    ):
        choose("unbuilt", CPU)
    with pytest.raises(InputError, match="'picky' can't serve this: it has no backward pass"):
        choose("picky", CPU)
    with pytest.raises(InputError, match="'own' has parameters of its own"):
        choose("own", without_grad)


@pytest.mark.usefixtures("strangers")
@pytest.mark.parametrize(
    ("dtype", "reason"),
    [
        (torch.float64, r"ArithmeticError: no doubles of any kind"),
        (torch.float32, r"it made \[2, 3, 4, 1\] torch.float32 of \[2, 3, 4, 5\]"),
    ],
)
def test_a_kernel_that_claims_what_it_can_not_do_is_named(dtype, reason):
    message = f"boastful.*stranger-kernels.*can't serve pattern 'row' on cpu in {dtype}, .*{reason}"
    with pytest.raises(InputError, match=message) as caught:
        Chosen("boastful")(*qkv(4, dtype=dtype), PATTERNS["row"](BLOCK, BLOCKS))
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("strangers")
def test_where_auto_meets_a_kernel_that_lies_the_next_one_serves(monkeypatch):
    boastful = registry.get(registry.ATTENTION, "boastful")
    monkeypatch.setattr(boastful, "rank", 100)
    q, k, v = qkv(4)
    pattern = PATTERNS["row"](BLOCK, BLOCKS)
    with pytest.warns(UserWarning, match="taking another kernel: 'boastful'"):
        mixed = Chosen()(q, k, v, pattern)
    torch.testing.assert_close(mixed, Naive()(q, k, v, pattern))
