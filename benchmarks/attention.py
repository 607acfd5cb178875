"""How fast is each attention kernel, and how much memory does it take? Both over those of `naive`.

`python benchmarks/attention.py [--context 2048] [--blocks 32] [--batch 2] [--heads 4] [--width 64]
[--patterns row,column] [--device cpu]` prints, for every pattern and every kernel that can serve
here, the median time of a forward and of a forward and backward pass, all measured in turn in one
process, and the most memory that PyTorch's allocator had handed out during one, inputs not
counted; then the kernels that can't serve, and why.
"""

import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import Field
from rich.console import Console
from rich.table import Table
from torch import Tensor

from plugins import registry
from plugins.ground.command import Command
from plugins.ground.device import pick_device
from prior.attention.base import AttentionKernel, AttentionRequest
from prior.attention.pattern import PATTERNS, Pattern, make_pattern

PASSES = ("forward", "and backward")


@dataclass(frozen=True)
class Run:
    """One kernel's forward pass, or forward and backward."""

    kernel: str
    work: Callable[[], None]
    backward: bool


@dataclass(frozen=True)
class Cost:
    """Of a run."""

    seconds: float
    peak: int
    """Bytes."""


class Attention(Command):
    """Compare attention kernels."""

    context: int = Field(2048, ge=1, description="positions")
    blocks: int = Field(32, ge=1, description="blocks that they are folded into")
    batch: int = Field(2, ge=1, description="items")
    heads: int = Field(4, ge=1, description="attention heads")
    width: int = Field(64, ge=1, description="width of a head")
    patterns: list[str] = Field(list(PATTERNS), description="which patterns")
    repeats: int = Field(7, ge=3, description="measurements; the median counts")
    device: str = Field("auto", description="auto, cpu, cuda or mps")

    def cli_cmd(self) -> None:
        """Measure and print."""
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else the profiler chats
        titles = [title for one in PASSES for title in (one, "/ naive", "MiB", "/ naive")]
        table = Table("pattern", "kernel", *titles)
        refusals: dict[str, None] = {}
        for name in self.patterns:
            costs = self._measure(make_pattern(name, self.context, self.blocks), refusals)
            for kernel in dict.fromkeys(kernel for kernel, _ in costs):
                cells = [
                    cell
                    for backward in (False, True)
                    for cell in _cells(costs.get((kernel, backward)), costs["naive", backward])
                ]
                table.add_row(name, kernel, *cells)
        Console().print(table, *refusals, sep="\n")

    def _measure(self, pattern: Pattern, refusals: dict[str, None]) -> dict[tuple[str, bool], Cost]:
        """What each kernel that can serve takes, by its name and whether there is a backward."""
        device = pick_device(self.device)
        shape = (self.batch, self.heads, self.context, self.width)
        q, k, v = (torch.randn(shape, device=device, requires_grad=True) for _ in range(3))
        runs = []
        for name in registry.plugins(registry.ATTENTION):
            cls = registry.get(registry.ATTENTION, name)
            if not issubclass(cls, AttentionKernel):
                refusals[f"{name}: is no kernel, it has parameters of its own"] = None
                continue
            for backward in (False, True):
                request = AttentionRequest(device.type, q.dtype, pattern.name, backward)
                if reason := cls().why_not(request):
                    refusals[f"{name}, {PASSES[backward]}: {reason}"] = None
                else:
                    runs.append(Run(name, _work(cls(), (q, k, v), pattern, backward), backward))
        for run in runs:
            run.work()  # compiles, and looks up what is kept
        peaks = [_peak(run.work, device) for run in runs]
        seconds: list[list[float]] = [[] for _ in runs]
        for _ in range(self.repeats):  # in turn, so that noise of the machine hits all alike
            for run, times in zip(runs, seconds, strict=True):
                times.append(_seconds(run.work, device))
        return {
            (run.kernel, run.backward): Cost(statistics.median(times), peak)
            for run, times, peak in zip(runs, seconds, peaks, strict=True)
        }


def _cells(cost: Cost | None, naive: Cost) -> list[str]:
    if cost is None:
        return ["-"] * 4
    return [
        f"{1e3 * cost.seconds:.2f} ms",
        f"{cost.seconds / naive.seconds:.2f}",
        f"{cost.peak / 2**20:.1f}",
        f"{cost.peak / naive.peak:.2f}",
    ]


def _work(
    kernel: AttentionKernel, inputs: tuple[Tensor, Tensor, Tensor], pattern: Pattern, backward: bool
) -> Callable[[], None]:
    def forward() -> None:
        with torch.no_grad():
            kernel(*inputs, pattern)

    def both() -> None:
        torch.autograd.grad(kernel(*inputs, pattern).sum(), inputs)

    return both if backward else forward


def _seconds(work: Callable[[], None], device: torch.device) -> float:
    started = time.perf_counter()
    work()
    if device.type != "cpu":
        torch.accelerator.synchronize()
    return time.perf_counter() - started


def _peak(work: Callable[[], None], device: torch.device) -> int:
    """Most bytes that were allocated at a time, beyond those before."""
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
    changes = [event for event in events if event["name"] == "[memory]"]
    held = peak = 0
    for event in sorted(changes, key=lambda event: event["ts"]):
        held += event["args"]["Bytes"]
        peak = max(peak, held)
    return peak


if __name__ == "__main__":
    Attention.main()
