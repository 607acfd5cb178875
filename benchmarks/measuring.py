"""Options of benchmarks and what they leave behind; it does not know what is measured.

`costs` measures; it is a file of its own, since it also runs where this toolkit is not.
"""

import contextlib
import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from costs import Work, in_turn, peak, seconds
from pydantic import Field
from rich.console import Console
from rich.table import Table

from plugins.ground.command import Command
from plugins.ground.files import published

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "Benchmark", "Row", "Work", "figure", "in_turn", "peak", "print_rows", "seconds", "write_csv"
]  # fmt: skip

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
