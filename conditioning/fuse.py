"""What conditioners make, checked, and many Conditions into one.

Starts and positions are summed, the rest is joined. Anybody may have written a conditioner, so
what goes wrong in one ends in a line that says whose it is. It does not know what a prior does
with a Condition. Shapes: B batch, T code positions, S memory or prefix positions, D width.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from conditioning.base import AuxiliaryLoss, Condition, Conditioner, Site, Track, Window
from plugins import registry
from plugins.ground.errors import InputError

Layout = Mapping[str, tuple[tuple[int, ...], torch.dtype]]
"""Names, shapes and dtypes of tensors."""


def prepared_by(
    part: Conditioner, track: Track, window: Window, rng: np.random.Generator | None = None
) -> dict[str, Tensor]:
    """What a conditioner prepares for one item.

    Raises:
        InputError: it can't, or gives something else than tensors by name.
    """
    with registry.blaming(type(part), f"prepare track {track.get('id', '')!r}"):
        made: Any = part.prepare(track, window, rng)
    if not isinstance(made, Mapping):
        raise InputError(f"{_whose(part)} prepared {_told(made)}, not tensors by name")
    for name, value in made.items():
        if not (isinstance(name, str) and isinstance(value, Tensor)):
            raise InputError(f"{_whose(part)} prepared {name!r}: {_told(value)}, not a tensor")
    return dict(made)


def require_layout(part: Conditioner, made: Mapping[str, Tensor], first: Layout) -> None:
    """Refuse an item that could not lie in one batch with an earlier one.

    Raises:
        InputError: its tensors have other names, shapes or dtypes than those of `first`.
    """
    ours = layout_of(made)
    for name in sorted({*ours, *first}):
        if ours.get(name) != first.get(name):
            one, other = (_laid(found.get(name)) for found in (ours, first))
            raise InputError(
                f"{_whose(part)} prepared {name!r} as {one} for one item, but as {other} for "
                "another: all need the same names, shapes and dtypes"
            )


def layout_of(made: Mapping[str, Tensor]) -> Layout:
    """Names, shapes and dtypes of tensors."""
    return {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in made.items()}


def condition_of(
    part: Conditioner,
    batch: Mapping[str, Tensor],
    site: Site,
    *,
    size: int,
    dtype: torch.dtype | None,
) -> Condition:
    """What a conditioner makes of a batch, as it announced it in `provides`.

    Args:
        part: the conditioner.
        batch: what it prepared, each [B, ...].
        site: that it was built for.
        size: B.
        dtype: of its floating tensors; None: any floating one, as under autocast.

    Raises:
        InputError: it can't, or made something else than it announced (says both).
    """
    with registry.blaming(type(part), "make a Condition"):
        made: Any = part(batch)
    if not isinstance(made, Condition):
        raise InputError(f"{_whose(part)} made {_told(made)}, not a Condition")
    provides = part.provides
    masked = provides.memory and made.memory_mask is not None
    for name, announced, shape, kind in (
        ("start", provides.start, (size, 1, site.width), dtype),
        ("position", provides.position, (size, site.context, site.width), dtype),
        ("memory", provides.memory, (size, provides.memory, site.width), dtype),
        ("memory_mask", masked, (size, provides.memory), torch.bool),
        ("prefix", provides.prefix, (size, provides.prefix), torch.int64),
    ):
        _check(part, name, getattr(made, name), shape if announced else None, kind)
    if made.prefix is not None and made.prefix.numel():
        _check_tokens(part, made.prefix, provides.prefix_vocab)
    for loss in made.losses:
        if not (isinstance(loss, AuxiliaryLoss) and isinstance(loss.mean, Tensor)):
            raise InputError(f"{_whose(part)} made {_told(loss)}, not an AuxiliaryLoss of a tensor")
        _check(part, f"loss {loss.name!r}", loss.mean, (), None)
    return made


def _check(
    part: Conditioner,
    name: str,
    made: Any,
    shape: tuple[int, ...] | None,
    dtype: torch.dtype | None,
) -> None:
    """Refuse a part of a Condition that is not what was announced; shape None: nothing was."""
    if made is None and shape is None:
        return
    alike = isinstance(made, Tensor) and made.shape == shape
    if alike and (made.dtype == dtype or (dtype is None and made.is_floating_point())):
        return
    announced = "nothing" if shape is None else f"{[*shape]} {dtype or 'of floating point'}"
    raise InputError(f"{_whose(part)} made {_told(made)} as its {name}, but announced {announced}")


def _check_tokens(part: Conditioner, prefix: Tensor, kinds: int) -> None:
    low, high = (int(value) for value in prefix.aminmax())
    if low < 0 or high >= kinds:
        raise InputError(
            f"{_whose(part)} made a prefix of tokens {low} to {high}, but announced {kinds} kinds: "
            f"0 to {kinds - 1}"
        )


def _whose(part: Conditioner) -> str:
    return f"conditioner {registry.origin(type(part))}"


def _told(made: Any) -> str:
    """What something is, for a message."""
    if isinstance(made, Tensor):
        return _laid((tuple(made.shape), made.dtype))
    return "nothing" if made is None else f"a {type(made).__name__}"


def _laid(found: tuple[tuple[int, ...], torch.dtype] | None) -> str:
    return "nothing" if found is None else f"{[*found[0]]} {found[1]}"


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
