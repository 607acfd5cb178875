"""Patterns without a network: mask, fold and cache layout must say the same thing."""

import itertools

import pytest
import torch

from plugins.ground.errors import InputError
from prior.attention.orders import FACTORED, ORDERS, PATTERN_NAMES, attention_order
from prior.attention.pattern import (
    PATTERNS,
    Memory,
    Prefix,
    SelfPattern,
    Spread,
    last_in_slots,
    make_pattern,
)

SHAPES = [(1, 6), (2, 3), (3, 4), (4, 1), (5, 5)]  # blocks, block


def by_hand(pattern: SelfPattern, query: int, key: int) -> bool:
    """Whether a query sees a key, in words of rows and columns."""
    block, last = pattern.block, pattern.blocks - 1
    (row, column), (key_row, key_column) = divmod(query, block), divmod(key, block)
    at_end = block - key_column <= getattr(pattern, "spread", 1)
    return {
        "dense": key <= query,
        "row": key_row == row and key_column <= column,
        "column": key_column == column and key_row <= row,
        "previous": key_row == row - 1,
        "summary": key <= query and key_row < last and key_column == block - 1,
        "spread": key <= query and key_row < last and at_end,
        "prefix": key <= query and key < getattr(pattern, "seen", 0),
    }[pattern.name]


def every_pattern() -> list[SelfPattern]:
    """Of every kind and shape, with and without null keys."""
    made: list[SelfPattern] = []
    for blocks, block in SHAPES:
        for nulls in (0, 2):
            plain = [c for c in PATTERNS.values() if issubclass(c, SelfPattern)]
            made += [cls(block, blocks, nulls) for cls in plain]
            made += [Spread(block, blocks, nulls, spread=n) for n in {2, 3, block} if n <= block]
            made += [Prefix(block, blocks, nulls, seen=n) for n in (3, block * blocks)]
    return made


def test_the_config_names_the_patterns_that_there_are():
    assert set(PATTERN_NAMES) == set(PATTERNS)


def test_orders_are_those_of_the_paper():
    assert {number for number in range(20) if number in ORDERS} == set(range(13))
    assert len(ORDERS[10]) == 79
    assert [d for d in range(79) if ORDERS[10][d] == "memory"] == [18, 28, 38, 48, 58, 68, 78]
    looks_back = {d: ORDERS[12][d] for d in range(48) if ORDERS[12][d] not in FACTORED}
    assert looks_back == {15: "prefix", 31: "prefix", 47: "dense"}
    assert ORDERS[11] == tuple(n.replace("prefix", "memory") for n in ORDERS[12])
    with pytest.raises(InputError, match="no attention order 13; there are: 0 to 12"):
        attention_order(13)


@pytest.mark.parametrize("pattern", every_pattern(), ids=repr)
def test_mask_is_what_the_words_say(pattern):
    positions = torch.arange(pattern.block * pattern.blocks)
    mask = pattern.mask(positions, positions)
    for query, key in itertools.product(positions.tolist(), repeat=2):
        assert mask[query, key] == by_hand(pattern, query, key)


@pytest.mark.parametrize("pattern", every_pattern(), ids=repr)
def test_mask_of_some_positions_is_a_part_of_the_whole(pattern):
    whole = torch.arange(pattern.block * pattern.blocks)
    queries, keys = whole[1::2], whole[::3]
    assert torch.equal(pattern.mask(queries, keys), pattern.mask(whole, whole)[queries][:, keys])


@pytest.mark.parametrize("pattern", every_pattern(), ids=repr)
def test_folded_queries_meet_the_keys_of_the_mask(pattern):
    """Fold positions instead of vectors, and read off which meet."""
    context = pattern.block * pattern.blocks
    for length in range(1, context + 1):
        # Batch 2, 3 heads; position p of item b and head h is the number 1 + p + context (3 b + h).
        numbers = torch.arange(2 * 3 * context).view(2, 3, context, 1)[:, :, :length] + 1
        queries, keys = pattern.fold(numbers), pattern.fold_keys(numbers)
        assert queries.shape[:2] == keys.shape[:2]
        seen = pattern.folded_mask(queries.shape[2], keys.shape[2], numbers.device)
        if seen is None:
            seen = torch.ones(queries.shape[2], pattern.nulls + keys.shape[2], dtype=torch.bool)
        assert seen[:, : pattern.nulls].all()
        seen = seen[:, pattern.nulls :]
        met = torch.zeros(6 * context + 1, 6 * context + 1, dtype=torch.bool)
        for q, k in zip(queries[..., 0].flatten(0, 1), keys[..., 0].flatten(0, 1), strict=True):
            met[q[:, None].expand_as(seen)[seen], k.expand_as(seen)[seen]] = True
        met = met[1:, 1:].view(6, context, 6, context)  # number 0 is padding
        own = pattern.mask(torch.arange(length), torch.arange(length))
        for i, j in itertools.product(range(6), repeat=2):
            assert torch.equal(met[i, :length, j, :length], own if i == j else own & False)
        assert torch.equal(pattern.unfold(queries, 2, length), numbers)


@pytest.mark.parametrize("pattern", every_pattern(), ids=repr)
def test_a_query_sees_one_slice_of_the_cache(pattern):
    context, nulls = pattern.block * pattern.blocks, pattern.nulls
    positions = torch.arange(context)
    mask = pattern.mask(positions, positions)
    cache: list[int | None] = [None] * pattern.cache_length  # None: still zeros, a null key
    for position in positions.tolist():
        cache[pattern.slot(position)] = position
        seen = cache[pattern.visible(position)]
        assert seen[:nulls] == [None] * nulls
        assert sorted(seen[nulls:]) == mask[position].nonzero()[:, 0].tolist()
        slots, kept = last_in_slots(pattern, position + 1)
        filled = {slot: kept for slot, kept in enumerate(cache) if kept is not None}
        assert filled == dict(zip(slots, kept, strict=True))


@pytest.mark.parametrize("pattern", every_pattern(), ids=repr)
def test_a_cache_for_fewer_positions_gives_them_the_same(pattern):
    context = pattern.block * pattern.blocks
    for length in range(1, context + 1):
        fewer, positions = pattern.at_most(length), torch.arange(length)
        assert torch.equal(fewer.mask(positions, positions), pattern.mask(positions, positions))
        assert fewer.block * fewer.blocks >= length
        assert fewer.cache_length <= pattern.cache_length


@pytest.mark.parametrize(
    ("name", "slots"),
    [
        ("dense", 8192),
        ("row", 64),
        ("column", 8192),
        ("previous", 128),
        ("summary", 129),
        ("spread", 4 + 4 * 128),
        ("prefix", 513),
    ],
)
def test_caches_hold_little_more_than_is_read(name, slots):
    assert make_pattern(name, 8192, 128, prefix=384, spread=4).cache_length == slots


def test_the_published_prefix_is_seen_with_a_few_codes():
    assert make_pattern("prefix", 6528, 64, prefix=384).seen == 448


def test_all_of_a_memory_is_seen():
    assert Memory(4, 3).mask(torch.arange(5), torch.arange(7)).all()


@pytest.mark.parametrize("name", PATTERNS)
def test_folding_views_of_projections_copies_no_queries(name):
    pattern = make_pattern(name, 12, 3)
    queries = torch.randn(2, 12, 4, 5).transpose(1, 2)  # [B, H, T, D] as a projection leaves it
    assert pattern.fold(queries).data_ptr() == queries.data_ptr()


def test_unknown_patterns_and_uneven_blocks_are_refused():
    with pytest.raises(InputError, match=r"'diagonal'; there are: dense, row"):
        make_pattern("diagonal", 12, 3)
    with pytest.raises(InputError, match="12 can't be folded into 5"):
        make_pattern("row", 12, 5)
