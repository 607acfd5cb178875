"""Many Conditions into one: starts and positions are summed, the rest is joined.

It does not know who made them. Shapes: B batch, T code positions, S memory positions, D width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from conditioning.base import Condition


def fuse(conditions: Sequence[Condition]) -> Condition:
    """The Condition that all of them together make; an empty sequence gives an empty one."""
    memories = [c for c in conditions if c.memory is not None]
    prefixes = [c.prefix for c in conditions if c.prefix is not None]
    return Condition(
        start=_sum([c.start for c in conditions if c.start is not None]),
        position=_sum([c.position for c in conditions if c.position is not None]),
        memory=torch.cat([c.memory for c in memories], 1) if memories else None,  # type: ignore[misc]
        memory_mask=_masks(memories),
        prefix=torch.cat(prefixes, 1) if prefixes else None,
        losses=tuple(loss for c in conditions for loss in c.losses),
    )


def _sum(parts: list[Tensor]) -> Tensor | None:
    return sum(parts[1:], parts[0]) if parts else None


def _masks(memories: Sequence[Condition]) -> Tensor | None:
    """All masks joined, or None if there is none: a memory without one can be read everywhere."""
    if all(c.memory_mask is None for c in memories):
        return None
    return torch.cat([_mask(c) for c in memories], 1)


def _mask(condition: Condition) -> Tensor:
    """A memory without a mask can be read everywhere."""
    assert condition.memory is not None
    if condition.memory_mask is not None:
        return condition.memory_mask
    return torch.ones(condition.memory.shape[:2], dtype=torch.bool, device=condition.memory.device)
