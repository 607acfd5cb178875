"""The published attention orders: which pattern each layer has, by one number. No torch import.

It knows names of patterns, not what they mean. Orders are cycles over the layers (paper appendix
A.1; the numbers are those of the published hyper-parameters).
"""

from typing import Literal, get_args

from plugins.ground.errors import InputError

PatternName = Literal["dense", "row", "column", "previous", "summary", "spread", "memory", "prefix"]
PATTERN_NAMES: tuple[str, ...] = get_args(PatternName)
Order = tuple[PatternName, ...]

FACTORED: Order = ("row", "column", "previous")
_WITH_MEMORY: Order = (*FACTORED * 3, "memory")


def attention_order(number: int) -> Order:
    """The cycle of patterns of an order.

    Raises:
        InputError: no such order.
    """
    if number not in ORDERS:
        raise InputError(f"no attention order {number}; there are: 0 to {max(ORDERS)}")
    return ORDERS[number]


def _every_sixteenth(*turns: PatternName) -> Order:
    """Factored layers, but for each 16th, which takes these turns by its number modulo 3."""
    return tuple(turns[d % 3] if d % 16 == 15 else FACTORED[d % 3] for d in range(48))


ORDERS: dict[int, Order] = {
    0: ("dense",),
    1: ("row", "column"),
    2: FACTORED,
    3: ("row", "summary"),
    4: ("row", "spread"),
    5: ("row", "summary", "row", "row"),
    6: (*FACTORED, "memory"),
    7: (*FACTORED * 5, "memory"),
    8: _WITH_MEMORY,
    9: (*FACTORED, "dense"),
    10: FACTORED * 3 + _WITH_MEMORY * 7,
    11: _every_sixteenth("memory", "memory", "dense"),
    12: _every_sixteenth("prefix", "prefix", "dense"),
}
