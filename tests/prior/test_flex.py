"""`flex`: its masks, tile by tile, and what it compiles to, against `naive`.

Each kind of shape takes seconds to compile, so that there are few.
"""

import pytest
import torch
from attending import NEAR, PATTERNS_OF_ALL_KINDS, Ahead, Echo, qkv

from plugins.ground.errors import InputError
from prior.attention import flex
from prior.attention.flex import TILE, Flex, block_mask
from prior.attention.kernels import AttentionRequest, Naive, choose
from prior.attention.pattern import PATTERNS, make_pattern

CPU = torch.device("cpu")
STRANGERS = [Echo(7, 60), Echo(7, 60, 3), Ahead(7, 60), Ahead(7, 60, 2)]


def request_of(device="cpu", dtype=torch.float32, grad=False):
    return AttentionRequest(device, dtype, "row", grad)


def listed(mask):
    """The tiles that are walked without a look at the mask, and with one: two of bool [I, J]."""
    for counts, which in (
        (mask.full_kv_num_blocks[0, 0], mask.full_kv_indices[0, 0]),
        (mask.kv_num_blocks[0, 0], mask.kv_indices[0, 0]),
    ):
        tiles = torch.zeros(which.shape, dtype=torch.bool)
        for row, count in enumerate(counts.tolist()):
            tiles[row, which[row, :count]] = True
        yield tiles


@pytest.mark.parametrize("pattern", [*PATTERNS_OF_ALL_KINDS, *STRANGERS], ids=repr)
def test_a_block_mask_is_the_mask_of_its_pattern(pattern):
    for queries, keys in ((12, 12), (1, 7), (TILE, TILE), (3 * TILE - 30, 2 * TILE + 1)):
        made = block_mask(pattern, queries, keys, CPU)
        rows, columns = (torch.arange(n) for n in made.shape[-2:])
        seen = made.mask_mod(0, 0, rows[:, None], columns)
        # Null keys come first, and what was added to fill the last tiles is not seen.
        expected = torch.zeros_like(seen)
        expected[:queries, : pattern.nulls] = True
        expected[:queries, pattern.nulls : pattern.nulls + keys] = pattern.mask(
            rows[:queries], columns[:keys]
        )
        assert torch.equal(seen, expected)
        share = seen.view(-1, TILE, len(columns) // TILE, TILE).float().mean((1, 3))
        wholly, partly = listed(made)
        assert torch.equal(wholly, share == 1)
        assert torch.equal(partly, (share > 0) & (share < 1))


def test_tiles_that_are_not_seen_are_not_walked():
    for name in ("row", "previous", "prefix"):
        mask = block_mask(make_pattern(name, 8192, 128, prefix=50), 8192, 8192, CPU)
        assert (mask.kv_num_blocks + mask.full_kv_num_blocks).sum() <= 2 * 8192 / TILE


def test_what_sampling_looked_up_can_be_kept_for_a_backward_pass():
    with torch.inference_mode():
        mask = block_mask(PATTERNS["column"](10, 17), 170, 170, CPU)
    assert not mask.kv_indices.is_inference()
    assert not any(cell.cell_contents.is_inference() for cell in mask.mask_mod.__closure__)


needs_compiler = pytest.mark.skipif(
    Flex().why_not(request_of()) is not None, reason=str(Flex().why_not(request_of()))
)


@needs_compiler
@torch.no_grad()
def test_compiled_it_is_naive():
    """Whatever is rounded up to as many tiles runs the same code."""
    patterns = [
        *(make_pattern(name, 320, 5, prefix=50, spread=5) for name in PATTERNS),
        *(cls(150, 2, 3) for cls in PATTERNS.values()),
        *STRANGERS,
    ]
    for length in (TILE + 2, 250):
        for pattern in patterns:
            inputs = qkv(length)
            got, expected = Flex()(*inputs, pattern), Naive()(*inputs, pattern)
            torch.testing.assert_close(got, expected, **NEAR[torch.float32])
    inputs = qkv(140, keys=250)
    memory = PATTERNS["memory"](10, 20)
    got, expected = Flex()(*inputs, memory), Naive()(*inputs, memory)
    torch.testing.assert_close(got, expected, **NEAR[torch.float32])
    inputs = qkv(250, dtype=torch.bfloat16)
    got, expected = Flex()(*inputs, patterns[1]), Naive()(*inputs, patterns[1])
    torch.testing.assert_close(got, expected, **NEAR[torch.bfloat16])


def test_it_refuses_what_it_can_not_compile(monkeypatch):
    for request, reason in (
        (request_of(grad=True), "flex_attention has no backward pass on a CPU"),
        (request_of("mps"), "it is for CUDA and CPUs, and the device is mps"),
        (request_of(dtype=torch.float64), "it has no torch.float64"),
    ):
        with pytest.raises(InputError, match=f"'flex' can't serve this: {reason}"):
            choose("flex", request)
    assert Flex().why_not(request_of("cuda", grad=True)) in (
        None,
        "it is compiled by triton, which is not installed",
    )
    monkeypatch.setenv("CXX", "no-such-compiler -O2")
    flex._no_compiler.cache_clear()
    assert "no-such-compiler is not installed" in Flex().why_not(request_of())
    flex._no_compiler.cache_clear()
