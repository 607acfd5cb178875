"""Patterns without a network: mask, fold and cache layout must say the same thing."""

import itertools

import pytest
import torch

from plugins.ground.errors import InputError
from prior.attention.pattern import PATTERNS, Pattern, last_in_slots, make_pattern
from prior.config import PATTERN_NAMES

SHAPES = [(1, 6), (2, 3), (3, 4), (4, 1), (5, 5)]  # blocks, block


def by_hand(name: str, query: int, key: int, block: int) -> bool:
    """Whether a query sees a key, in words of rows and columns."""
    (row, column), (key_row, key_column) = divmod(query, block), divmod(key, block)
    return {
        "dense": key <= query,
        "row": key_row == row and key_column <= column,
        "column": key_column == column and key_row <= row,
        "previous": key_row == row - 1,
    }[name]


def every_pattern(nulls: int = 0) -> list[Pattern]:
    return [cls(block, blocks, nulls) for cls in PATTERNS.values() for blocks, block in SHAPES]


def test_the_config_names_the_patterns_that_there_are():
    assert set(PATTERN_NAMES) == set(PATTERNS)


@pytest.mark.parametrize("pattern", every_pattern(), ids=repr)
def test_mask_is_what_the_words_say(pattern):
    positions = torch.arange(pattern.block * pattern.blocks)
    mask = pattern.mask(positions, positions)
    for query, key in itertools.product(positions.tolist(), repeat=2):
        assert mask[query, key] == by_hand(pattern.name, query, key, pattern.block)


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
        seen = torch.ones(queries.shape[2], keys.shape[2], dtype=torch.bool)
        seen = seen.tril() if pattern.causal else seen
        met = torch.zeros(6 * context + 1, 6 * context + 1, dtype=torch.bool)
        for q, k in zip(queries[..., 0].flatten(0, 1), keys[..., 0].flatten(0, 1), strict=True):
            met[q[:, None].expand_as(seen)[seen], k.expand_as(seen)[seen]] = True
        met = met[1:, 1:].view(6, context, 6, context)  # number 0 is padding
        own = pattern.mask(torch.arange(length), torch.arange(length))
        for i, j in itertools.product(range(6), repeat=2):
            assert torch.equal(met[i, :length, j, :length], own if i == j else own & False)
        assert torch.equal(pattern.unfold(queries, 2, length), numbers)


@pytest.mark.parametrize("nulls", [0, 2])
@pytest.mark.parametrize("name", PATTERNS)
@pytest.mark.parametrize(("blocks", "block"), SHAPES)
def test_a_query_sees_one_slice_of_the_cache(name, blocks, block, nulls):
    pattern = PATTERNS[name](block, blocks, nulls)
    positions = torch.arange(block * blocks)
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


@pytest.mark.parametrize(
    ("name", "slots"), [("dense", 8192), ("row", 64), ("column", 8192), ("previous", 128)]
)
def test_caches_hold_no_more_than_is_read(name, slots):
    assert make_pattern(name, 8192, 128).cache_length == slots


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
