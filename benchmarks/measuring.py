"""Options of benchmarks and what they leave behind; it does not know what is measured.

`costs` measures; it is a file of its own, since it also runs where this toolkit is not.
"""

import contextlib
import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from costs import Work, in_turn, peak, seconds
from pydantic import Field
from rich.console import Console
from rich.table import Table

from plugins.ground.command import Command
from plugins.ground.files import published

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "Benchmark", "Row", "Work", "curve", "figure", "in_turn", "peak", "print_rows", "seconds",
    "write_csv",
]  # fmt: skip

MARKERS = (("o", 4), ("s", 7), ("D", 4), ("^", 7), ("v", 7))
"""And their sizes."""

Row = dict[str, float | str]
"""A measurement, by column."""


class Benchmark(Command):
    """Options that every benchmark has."""

    out: Path = Field(Path("out/bench"), description="folder for tables and figures")
    quick: bool = Field(False, description="small shapes, few repeats: does it run at all?")
    repeats: int = Field(5, ge=1, description="measurements; the median counts")
    device: str = Field("auto", description="auto, cpu, cuda or mps")


def print_rows(rows: Sequence[Mapping[str, Any]]) -> None:
    """Rows as a table on the screen; the first names the columns."""
    table = Table(*rows[0])
    for row in rows:
        table.add_row(*(v if isinstance(v, str) else f"{v:.4g}" for v in row.values()))
    Console().print(table)


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Publish rows as a table; the first names the columns."""
    with published(path) as partial, open(partial, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def curve(panel: "Axes", points: Sequence[tuple[Any, Any]], label: str, look: int) -> None:
    """A line of measurements on logarithmic axes; nothing if there are none.

    Args:
        panel: where; every x of its lines is a tick, and no other.
        points: x and y.
        label: its name in the legend.
        look: which colour and marker, the same number for the same thing on every panel.
    """
    if not points:
        return
    # Lines that lie on one another can still be told apart by their markers.
    marker, size = MARKERS[look % len(MARKERS)]
    panel.loglog(*zip(*points, strict=True), f"C{look}", marker=marker, ms=size, mfc="none",
                 label=label)  # fmt: skip
    values = sorted({int(x) for line in panel.lines for x in np.asarray(line.get_xdata())})
    panel.set_xticks(values, [_short(x) for x in values])
    panel.xaxis.minorticks_off()


def _short(value: int) -> str:
    if value >= 1e6:
        return f"{value / 1e6:.2g}M"
    return f"{value // 1024}k" if value % 1024 == 0 else f"{value}"


@contextlib.contextmanager
def figure(path: Path, width: float = 8, height: float = 4.5) -> Iterator["Figure"]:
    """A figure to draw on, published as a picture when that went well.

    Args:
        path: where; its suffix says in which format.
        width: inches.
        height: inches.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawn = Figure((width, height), layout="constrained")
    FigureCanvasAgg(drawn)
    yield drawn
    with published(path) as partial:
        drawn.savefig(partial, dpi=150)
