"""A cache must give what attention over the whole sequence gives."""

import pytest
import torch

from plugins.ground.errors import InputError
from prior.attention.cache import LayerCache, MemoryCache
from prior.attention.kernels import Flash, Naive
from prior.attention.pattern import PATTERNS, SelfPattern, make_pattern

BLOCK, BLOCKS = 4, 5
CONTEXT = BLOCK * BLOCKS
SELF_PATTERNS = [
    *(cls(4, 5, n) for cls in PATTERNS.values() if issubclass(cls, SelfPattern) for n in (0, 2)),
    *(make_pattern(name, 20, 5, prefix=5, spread=3) for name in ("summary", "spread", "prefix")),
]


def empty(pattern, batch=2, dtype=torch.float32):
    return LayerCache(pattern, batch, 3, 8, kernel=Flash(), dtype=dtype, device=torch.device("cpu"))


def qkv(batch=2):
    generator = torch.Generator().manual_seed(batch)
    return torch.randn(3, batch, 3, CONTEXT, 8, generator=generator).unbind(0)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("pattern", SELF_PATTERNS, ids=repr)
def test_cached_is_uncached_for_every_prompt_length(pattern, batch):
    q, k, v = qkv(batch)
    whole = Naive()(q, k, v, pattern)
    cache = empty(pattern, batch)
    for prompt in range(CONTEXT + 1):
        cache.clear()
        pieces = []
        if prompt:
            pieces.append(cache(q[:, :, :prompt], k[:, :, :prompt], v[:, :, :prompt], pattern))
        for t in range(prompt, CONTEXT):
            pieces.append(cache(*(x[:, :, t : t + 1] for x in (q, k, v)), pattern))
        torch.testing.assert_close(torch.cat(pieces, 2), whole, atol=1e-6, rtol=1e-5)


def test_nothing_grows_and_nothing_moves():
    pattern = PATTERNS["previous"](BLOCK, BLOCKS)
    cache = empty(pattern)
    q, k, v = qkv()
    before = cache.keys.data_ptr(), cache.values.data_ptr(), cache.keys.shape
    for t in range(CONTEXT):
        cache(*(x[:, :, t : t + 1] for x in (q, k, v)), pattern)
    assert before == (cache.keys.data_ptr(), cache.values.data_ptr(), cache.keys.shape)
    assert cache.keys.shape == (2, 3, 2 * BLOCK, 8)


def test_a_full_or_misused_cache_is_refused():
    pattern = PATTERNS["row"](BLOCK, BLOCKS)
    q, k, v = qkv()
    cache = empty(pattern)
    cache(q[:, :, :6], k[:, :, :6], v[:, :, :6], pattern)
    with pytest.raises(InputError, match="one position at a time"):
        cache(q[:, :, 6:8], k[:, :, 6:8], v[:, :, 6:8], pattern)
    cache.clear()
    cache(q, k, v, pattern)
    with pytest.raises(InputError, match="context of 20 positions is full"):
        cache(q[:, :, :1], k[:, :, :1], v[:, :, :1], pattern)


def test_a_memory_is_kept_from_the_first_call_on():
    pattern, cache = PATTERNS["memory"](BLOCK, BLOCKS), MemoryCache(Flash())
    q, k, v = qkv()
    assert cache.kept is None
    whole = cache(q, k[:, :, :7], v[:, :, :7], pattern)
    kept = cache.kept
    assert torch.equal(cache(q, *kept, pattern), whole)
    cache.clear()
    assert cache.kept is None
