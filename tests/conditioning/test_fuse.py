"""Conditions of several conditioners become one, if they are what was announced."""

from dataclasses import replace

import pytest
import torch
from pydantic import BaseModel

from codec.tokens import TokenStream
from conditioning.base import AuxiliaryLoss, Condition, Conditioner, Provides, Site
from conditioning.fuse import condition_of, fuse
from plugins.ground.errors import InputError


def ramp(*shape: int) -> torch.Tensor:
    return torch.arange(float(torch.Size(shape).numel())).view(shape)


def test_nothing_gives_an_empty_condition():
    for parts in ([], [Condition(), Condition()]):
        made = fuse(parts)
        assert made.start is made.position is made.memory is made.memory_mask is None
        assert made.prefix is None
        assert made.losses == ()


def test_one_condition_comes_out_as_it_went_in():
    part = Condition(
        start=ramp(2, 1, 3),
        position=ramp(2, 4, 3),
        memory=ramp(2, 5, 3),
        memory_mask=torch.tensor([[True, True, False, False, True]] * 2),
        prefix=torch.arange(4).view(2, 2),
        losses=(AuxiliaryLoss("lyrics", torch.tensor(2.0), 8, 0.4),),
    )
    made = fuse([Condition(), part])
    for name in ("start", "position", "memory", "memory_mask", "prefix"):
        assert torch.equal(getattr(made, name), getattr(part, name)), name
    assert made.losses == part.losses


def test_starts_and_positions_are_summed():
    parts = [
        Condition(start=ramp(2, 1, 3)),
        Condition(position=ramp(2, 4, 3)),
        Condition(start=10 * ramp(2, 1, 3), position=100 * ramp(2, 4, 3)),
    ]
    made = fuse(parts)
    assert torch.equal(made.start, 11 * ramp(2, 1, 3))
    assert torch.equal(made.position, 101 * ramp(2, 4, 3))


def test_memories_are_joined_and_one_without_a_mask_can_be_read_everywhere():
    mask = torch.tensor([[True, False], [False, False]])
    parts = [
        Condition(memory=torch.zeros(2, 2, 3), memory_mask=mask),
        Condition(memory=torch.ones(2, 1, 3)),
    ]
    made = fuse(parts)
    assert made.memory.shape == (2, 3, 3)
    assert made.memory[:, :, 0].tolist() == [[0, 0, 1]] * 2
    assert made.memory_mask.tolist() == [[True, False, True], [False, False, True]]


def test_prefixes_are_joined_in_order():
    made = fuse([Condition(prefix=torch.tensor([[1, 2]])), Condition(prefix=torch.tensor([[3]]))])
    assert made.prefix.tolist() == [[1, 2, 3]]


def test_memories_without_masks_need_none():
    assert fuse([Condition(memory=torch.zeros(2, 2, 3))] * 2).memory_mask is None


def test_losses_are_collected():
    losses = [AuxiliaryLoss(name, torch.tensor(1.0), 8, 0.4) for name in "abc"]
    made = fuse([Condition(losses=(losses[0],)), Condition(), Condition(losses=tuple(losses[1:]))])
    assert made.losses == tuple(losses)


class Told(Conditioner):
    """Makes what the test gives it."""

    Config = BaseModel
    provides = Provides(start=True, position=True, memory=5, prefix=2, prefix_vocab=4)
    prepare = None

    def forward(self, batch):
        return batch["made"]


SITE = Site(3, 4, 8000, TokenStream(name="0", vocab_size=9, hop_length=8))
WHOLE = Condition(
    start=ramp(2, 1, 3),
    position=ramp(2, 4, 3),
    memory=ramp(2, 5, 3),
    memory_mask=torch.ones(2, 5, dtype=torch.bool),
    prefix=torch.arange(4).view(2, 2),
    losses=(AuxiliaryLoss("lyrics", torch.tensor(2.0), 8, 0.4),),
)


def made(condition, dtype=torch.float32):
    part = Told(None, SITE)
    return condition_of(part, {"made": condition}, SITE, size=2, dtype=dtype)


def test_what_was_announced_is_let_through():
    assert made(WHOLE) is WHOLE
    unmasked = replace(WHOLE, memory_mask=None, losses=())
    assert made(unmasked) is unmasked
    mixed = replace(WHOLE, start=WHOLE.start.bfloat16())
    assert made(mixed, dtype=None) is mixed


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"start": None}, "nothing as its start, but announced [2, 1, 3] torch.float32"),
        ({"start": ramp(1, 1, 3)}, "[1, 1, 3] torch.float32 as its start, but"),
        ({"start": ramp(2, 1, 3).half()}, "[2, 1, 3] torch.float16 as its start, but"),
        ({"position": ramp(2, 5, 3)}, "[2, 5, 3] torch.float32 as its position, but"),
        ({"memory": ramp(2, 5)}, "[2, 5] torch.float32 as its memory, but announced [2, 5, 3]"),
        (
            {"memory_mask": torch.ones(2, 5)},
            "torch.float32 as its memory_mask, but announced [2, 5",
        ),
        (
            {"prefix": torch.ones(2, 2)},
            "torch.float32 as its prefix, but announced [2, 2] torch.int",
        ),
        ({"prefix": WHOLE.prefix + 1}, "a prefix of tokens 1 to 4, but announced 4 kinds: 0 to 3"),
        ({"prefix": WHOLE.prefix - 1}, "a prefix of tokens -1 to 2, but announced 4 kinds"),
        ({"losses": (ramp(2),)}, "[2] torch.float32, not an AuxiliaryLoss of a tensor"),
        (
            {"losses": (AuxiliaryLoss("x", ramp(2), 8, 0.4),)},
            "[2] torch.float32 as its loss 'x', but announced [] of floating point",
        ),
    ],
)
def test_anything_else_is_refused_with_both(change, told):
    with pytest.raises(InputError) as caught:
        made(replace(WHOLE, **change))
    message = str(caught.value)
    assert told in message
    assert message.startswith(f"conditioner {__name__}.Told made ")


def test_a_dtype_is_free_under_autocast_but_floating():
    with pytest.raises(InputError, match=r"torch.int64 as its start, .* of floating point"):
        made(replace(WHOLE, start=WHOLE.start.long()), dtype=None)


def test_a_mask_without_a_memory_was_not_announced():
    part = Told(None, SITE)
    part.provides = Provides(start=True)
    only = Condition(start=WHOLE.start, memory_mask=WHOLE.memory_mask)
    with pytest.raises(InputError, match="as its memory_mask, but announced nothing"):
        condition_of(part, {"made": only}, SITE, size=2, dtype=torch.float32)
