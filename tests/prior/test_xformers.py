"""`xformers`: what it refuses, and its foldings and masks with a plain operator.

The plain one demands what the library's operators for CUDA do.
"""

import sys
from types import ModuleType

import pytest
import torch
from attending import LENGTHS, PATTERNS_OF_ALL_KINDS, assert_naive

from plugins import registry
from plugins.ground.errors import InputError
from prior.attention.kernels import AttentionRequest, choose
from prior.attention.pattern import PATTERNS, make_pattern
from prior.attention.xformers import ALIGNMENT, Xformers, _no_library


def request_of(device="cuda", dtype=torch.float32, pattern="row"):
    return AttentionRequest(device, dtype, pattern, grad=True)


class LowerTriangularMask:
    """A query sees keys up to its own index."""


def memory_efficient_attention(query, key, value, attn_bias=None, p=0.0, scale=None):
    """[B, T, H, D], [B, K, H, D] -> [B, T, H, D]."""
    q, k, v = (x.transpose(1, 2) for x in (query, key, value))
    assert q.dtype == k.dtype == v.dtype
    assert k.shape == v.shape == (*q.shape[:2], k.shape[2], q.shape[3])
    for x in (query, key, value):
        assert x.stride(-1) == 1
        assert all(n % ALIGNMENT == 0 for n in (x.shape[-1], *x.stride()[:-1]))
    scores = q.float() @ k.float().mT * (q.shape[-1] ** -0.5 if scale is None else scale)
    if isinstance(attn_bias, LowerTriangularMask):
        hidden = torch.ones_like(scores, dtype=torch.bool).triu(1)
        scores = scores.masked_fill(hidden, -torch.inf)
    elif attn_bias is not None:
        assert attn_bias.shape == scores.shape
        assert attn_bias.dtype == q.dtype
        assert attn_bias.stride(-1) == 1
        assert all(n % ALIGNMENT == 0 for n in attn_bias.stride()[:-1])
        assert (attn_bias * 1.5).isfinite().all()  # as it is scaled for another base
        scores = scores + attn_bias
    return (scores.softmax(-1) @ v.float()).to(q.dtype).transpose(1, 2)


@pytest.fixture
def library(monkeypatch):
    """An xformers of which only the plain operator is there."""
    operators = ModuleType("xformers.ops")
    operators.LowerTriangularMask = LowerTriangularMask
    operators.memory_efficient_attention = memory_efficient_attention
    monkeypatch.setitem(sys.modules, "xformers", ModuleType("xformers"))
    monkeypatch.setitem(sys.modules, "xformers.ops", operators)
    _no_library.cache_clear()
    yield
    _no_library.cache_clear()


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("width", [5, 8])
@pytest.mark.parametrize("pattern", PATTERNS_OF_ALL_KINDS, ids=repr)
def test_with_a_plain_operator_it_is_naive(pattern, width):
    for length in LENGTHS:
        assert_naive(Xformers(), pattern, length, width=width)


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_and_longer_sequences(dtype):
    for name in PATTERNS:
        pattern = make_pattern(name, 96 * 7, 7, prefix=50, spread=5)
        assert_naive(Xformers(), pattern, 600, 1, dtype=dtype)


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("keys", [1, 5, 20])
def test_a_memory_may_be_of_any_length(keys):
    for nulls in (0, 3):
        assert_naive(Xformers(), PATTERNS["memory"](4, 3, nulls), 10, keys=keys)


@pytest.mark.usefixtures("library")
def test_it_serves_cuda_where_the_library_is():
    for name in PATTERNS:
        for dtype in (torch.float32, torch.float16, torch.bfloat16):
            assert Xformers().why_not(request_of(dtype=dtype, pattern=name)) is None
    assert "has no torch.float64" in Xformers().why_not(request_of(dtype=torch.float64))
    assert "'spiral' can't be folded" in Xformers().why_not(request_of(pattern="spiral"))


@pytest.mark.parametrize("device", ["cpu", "mps"])
def test_it_refuses_any_other_device_and_imports_nothing(device):
    assert registry.get(registry.ATTENTION, "xformers") is Xformers
    with pytest.raises(InputError) as caught:
        choose("xformers", request_of(device))
    assert str(caught.value) == (
        "attention kernel 'xformers' can't serve this: its operator runs on CUDA only, and the "
        f"device is {device}"
    )
    assert "xformers.ops" not in sys.modules


def test_without_the_library_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "xformers", None)
    _no_library.cache_clear()
    reason = Xformers().why_not(request_of())
    assert "the library xformers can't be imported (ModuleNotFoundError" in reason
    assert "pip install 'jukebox-toolkit[xformers]'" in reason
    assert "\n" not in reason
    _no_library.cache_clear()
