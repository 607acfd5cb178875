"""Conditions of several conditioners become one."""

import torch

from conditioning.base import AuxiliaryLoss, Condition
from conditioning.fuse import fuse


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
