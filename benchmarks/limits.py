"""What can this machine do at most? Multiplications and additions a second, bytes read a second.

`python benchmarks/limits.py [--quick]` takes the best of several ways each: PyTorch's product of
two large matrices and a loop of fused multiplications and additions in registers; PyTorch's
product of a matrix, much larger than the caches, with a vector, and a plain sum over an array of
that size. All in float32 on as many threads as PyTorch has. Figures of other benchmarks are shares
of these two; each of them asks `limits` itself, so that both were measured in one run.
"""

import ctypes
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from measuring import Benchmark, figure, write_csv
from rich.console import Console
from rich.table import Table

from plugins.ground import native

SOURCE = Path(__file__).with_suffix(".cpp")
GIGA = 1e9


@dataclass(frozen=True)
class Way:
    """One way to reach a limit."""

    limit: str
    name: str
    unit: str
    best: float
    """Units a second, of several runs."""


@dataclass(frozen=True)
class Limits:
    """Of this machine, in float32, on the threads that PyTorch has."""

    peak_gflops: float
    """Multiplications and additions a second, in 10^9."""
    bandwidth_gbs: float
    """Bytes read from memory a second, in 10^9."""

    def computing(self, operations: float, seconds: float) -> float:
        """Share of the peak that so many operations in that time are."""
        return operations / seconds / GIGA / self.peak_gflops

    def reading(self, size: float, seconds: float) -> float:
        """Share of the bandwidth that so many bytes in that time are."""
        return size / seconds / GIGA / self.bandwidth_gbs


class MeasureLimits(Benchmark):
    """Peak and bandwidth of this machine."""

    def cli_cmd(self) -> None:
        """Measure, print and write."""
        ways = measure(self.quick)
        table = Table("limit", "by", "best", "unit")
        for way in ways:
            table.add_row(way.limit, way.name, f"{way.best:.1f}", way.unit)
        Console().print(table)
        write_csv(self.out / "limits.csv", [vars(way) for way in ways])
        with figure(self.out / "limits.png", 8, 2.5) as drawn:
            panels = drawn.subplots(1, 2)
            for panel, limit in zip(panels, ("peak", "bandwidth"), strict=True):
                shown = [way for way in ways if way.limit == limit]
                panel.barh([way.name for way in shown], [way.best for way in shown])
                panel.set_xlabel(f"{limit}, {shown[0].unit}")


def limits(quick: bool = False, before: Limits | None = None) -> Limits:
    """The best of all ways, measured now.

    Args:
        quick: for less time.
        before: what was measured earlier, if that was better: noise only ever slows.
    """
    best: dict[str, float] = {}
    if before:
        best = {"peak": before.peak_gflops, "bandwidth": before.bandwidth_gbs}
    for way in measure(quick):
        best[way.limit] = max(best.get(way.limit, 0), way.best)
    return Limits(best["peak"], best["bandwidth"])


def measure(quick: bool = False) -> list[Way]:
    """All ways that there are here."""
    spent = 0.2 if quick else 2.0
    side = 1024 if quick else 2048
    a, b = torch.rand(side, side), torch.rand(side, side)
    rows = 1 << (12 if quick else 14)  # 64 MiB or 1 GiB: far more than any cache
    matrix = torch.ones(rows, rows)
    vector = torch.ones(rows)
    ways = [
        _way("peak", "matrix product, PyTorch", 2 * side**3, lambda: torch.mm(a, b), spent),
        _way(
            "bandwidth",
            "matrix times vector, PyTorch",
            matrix.nbytes,
            lambda: matrix @ vector,
            spent,
        ),
    ]
    library = native.load(SOURCE)
    if library is None:
        return ways
    threads = torch.get_num_threads()
    result = (ctypes.c_float * threads)()
    library.limits_multiply.restype = ctypes.c_double
    rounds = ctypes.c_int64(10**6)

    def multiply() -> float:
        return library.limits_multiply(rounds, threads, result)

    def read() -> None:
        start, count = ctypes.c_void_p(matrix.data_ptr()), ctypes.c_int64(matrix.numel())
        library.limits_read(start, count, threads, result)

    ways.insert(1, _way("peak", "multiply and add, C++", multiply(), multiply, spent))
    return [*ways, _way("bandwidth", "sum of an array, C++", matrix.nbytes, read, spent)]


def _way(limit: str, name: str, amount: float, work: Callable[[], object], spent: float) -> Way:
    """The best run in so many seconds; noise only ever makes one slower."""
    work()
    best, started = float("inf"), time.perf_counter()
    while time.perf_counter() - started < spent:
        begun = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - begun)
    unit = "GFLOP/s" if limit == "peak" else "GB/s"
    return Way(limit, name, unit, amount / best / GIGA)


if __name__ == "__main__":
    MeasureLimits.main()
