"""How far what is computed lies from what is expected, and how far it may.

It knows numbers and names, not what they mean.
"""

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from plugins.ground.errors import InputError

Array = npt.NDArray[Any]
Arrays = Mapping[str, Array]


class Expected(dict[str, Array]):
    """What a case holds by name; an array that it lacks is bad input."""

    def __missing__(self, name: str) -> Array:
        raise InputError(f"array {name!r} is missing")


@dataclass(frozen=True)
class Tolerance:
    """How large a difference may be."""

    limit: float
    measure: str
    """"absolute", "relative", or "differ" for the number of entries that are not equal."""

    def __str__(self) -> str:
        return f"{self.limit:g} {self.measure}" if self.limit else "equal"


EQUAL = Tolerance(0, "differ")
ABSOLUTE = Tolerance(1e-4, "absolute")
FINE = Tolerance(1e-5, "absolute")
"""For what moves little."""
RELATIVE = Tolerance(1e-4, "relative")


@dataclass(frozen=True)
class Row:
    """One comparison."""

    case: str
    what: str
    difference: float = math.nan
    """The largest; NaN if there was nothing to compare."""
    tolerance: Tolerance = EQUAL
    note: str = ""
    """Why there is nothing to compare, or what one should know."""

    @property
    def passed(self) -> bool:
        """Whether the difference is one, and small enough."""
        return self.difference <= self.tolerance.limit


def compare(case: str, what: str, computed: Any, expected: Any, tolerance: Tolerance) -> Row:
    """One array, number or text against what it should be."""
    got, wanted = _plain(computed), _plain(expected)
    if got.shape != wanted.shape:
        return Row(case, what, math.inf, tolerance, f"shape {got.shape}, not {wanted.shape}")
    return Row(case, what, _difference(got, wanted, tolerance), tolerance)


def compare_all(
    case: str,
    computed: Mapping[str, tuple[Any, Tolerance]],
    expected: Arrays,
    given: Collection[str],
) -> Iterator[Row]:
    """Every array that is computed or expected; one that is not both fails.

    Args:
        case: name of the case.
        computed: by name, with its tolerance.
        expected: what the case's file holds.
        given: names in it that are no results.
    """
    for name, (value, tolerance) in computed.items():
        if name in expected:
            yield compare(case, name, value, expected[name], tolerance)
        else:
            yield Row(case, name, tolerance=tolerance, note="missing: the case does not hold it")
    for name in expected:
        if name not in computed and name not in given:
            yield Row(case, name, note="unexpected: nothing computes it")


def _plain(value: Any) -> Array:
    return np.asarray(value.detach().cpu() if isinstance(value, torch.Tensor) else value)


def _difference(got: Array, wanted: Array, tolerance: Tolerance) -> float:
    if tolerance.measure == "differ":
        return float((got != wanted).sum())
    apart = np.abs(got.astype(np.float64) - wanted)
    if tolerance.measure == "relative":
        size = np.abs(wanted.astype(np.float64))
        apart = apart / np.where(size > 0, size, 1.0)
    return float(apart.max(initial=0.0))
