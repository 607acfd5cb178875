"""How fast is each attention kernel, and how much memory does it take? Both over those of `naive`.

`python benchmarks/attention.py [--context 2048] [--blocks 32] [--batch 2] [--heads 4] [--width 64]
[--patterns row,column] [--device cpu]` prints, for every pattern and every kernel that can serve
here, the median time of a forward and of a forward and backward pass, all measured in turn in one
process, and the most memory that PyTorch's allocator had handed out during one, inputs not
counted; then the kernels that can't serve, and why.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from measuring import in_turn, peak
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
        works = {(run.kernel, run.backward): run.work for run in runs}
        times = in_turn(works, self.repeats, device)
        return {name: Cost(times[name], peak(work, device)) for name, work in works.items()}


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


if __name__ == "__main__":
    Attention.main()
