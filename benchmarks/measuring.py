"""How benchmarks measure and what they leave behind; it does not know what is measured.

Times are medians of runs that take turns in one process, so that noise of the machine hits all of
them alike and their ratios hold. Memory is what PyTorch's allocator hands out.
"""

import contextlib
import csv
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from pydantic import Field

from plugins.ground.command import Command
from plugins.ground.files import published

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Name = TypeVar("Name")
Work = Callable[[], Any]

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else the profiler chats


class Benchmark(Command):
    """Options that every benchmark has."""

    out: Path = Field(Path("out/bench"), description="folder for tables and figures")
    quick: bool = Field(False, description="small shapes, few repeats: does it run at all?")
    repeats: int = Field(5, ge=1, description="measurements; the median counts")
    device: str = Field("auto", description="auto, cpu, cuda or mps")


def seconds(work: Work, device: torch.device) -> float:
    """What one call takes."""
    started = time.perf_counter()
    work()
    if device.type != "cpu":
        torch.accelerator.synchronize()
    return time.perf_counter() - started


def in_turn(runs: Mapping[Name, Work], repeats: int, device: torch.device) -> dict[Name, float]:
    """Median seconds of each, taking turns, after one call each that does not count."""
    for work in runs.values():
        work()
    times: dict[Name, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, work in runs.items():
            times[name].append(seconds(work, device))
    return {name: statistics.median(taken) for name, taken in times.items()}


def peak(work: Work, device: torch.device) -> int:
    """Most bytes that were allocated at a time during one call, beyond those before it."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        work()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "trace.json"
        profile.export_chrome_trace(str(file))
        events = json.loads(file.read_text())["traceEvents"]
    held = most = 0
    for event in sorted((e for e in events if e["name"] == "[memory]"), key=lambda e: e["ts"]):
        held += event["args"]["Bytes"]
        most = max(most, held)
    return most


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
