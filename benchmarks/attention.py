"""How fast is each attention kernel? Time of one layer's attention over that of `naive`.

`python benchmarks/attention.py [--context 2048] [--blocks 32] [--batch 2] [--heads 4] [--width 64]`
prints, for every pattern and every kernel that can serve here, the median time of a forward and
of a forward and backward pass, and its ratio to `naive`, all measured in turn in one process.
"""

import statistics
import time
from collections.abc import Callable

import torch
from pydantic import Field
from rich.console import Console
from rich.table import Table

from plugins import registry
from plugins.ground.command import Command
from plugins.ground.device import pick_device
from prior.attention.kernels import AttentionRequest
from prior.attention.pattern import PATTERNS, make_pattern


class Attention(Command):
    """Compare attention kernels."""

    context: int = Field(2048, ge=1, description="positions")
    blocks: int = Field(32, ge=1, description="blocks that they are folded into")
    batch: int = Field(2, ge=1, description="items")
    heads: int = Field(4, ge=1, description="attention heads")
    width: int = Field(64, ge=1, description="width of a head")
    repeats: int = Field(7, ge=3, description="measurements; the median counts")
    device: str = Field("auto", description="auto, cpu, cuda or mps")

    def cli_cmd(self) -> None:
        """Measure and print."""
        table = Table("pattern", "kernel", "forward", "/ naive", "and backward", "/ naive")
        for name in PATTERNS:
            times = self._measure(name)
            for kernel, (forward, both) in times.items():
                base = times["naive"]
                table.add_row(
                    name,
                    kernel,
                    f"{1e3 * forward:.2f} ms",
                    f"{forward / base[0]:.2f}",
                    f"{1e3 * both:.2f} ms",
                    f"{both / base[1]:.2f}",
                )
        Console().print(table)

    def _measure(self, name: str) -> dict[str, tuple[float, float]]:
        """Seconds of each kernel that can serve: forward, forward and backward."""
        device = pick_device(self.device)
        pattern = make_pattern(name, self.context, self.blocks)
        shape = (self.batch, self.heads, self.context, self.width)
        q, k, v = (torch.randn(shape, device=device, requires_grad=True) for _ in range(3))
        request = AttentionRequest(device.type, q.dtype, name, grad=True)
        kernels = {}
        for kernel in registry.plugins(registry.ATTENTION):
            built = registry.get(registry.ATTENTION, kernel)()
            reason = built.why_not(request)
            if reason is None:
                kernels[kernel] = built
            else:
                Console().print(f"{kernel} can't serve {name}: {reason}")

        def forward(kernel: str) -> None:
            with torch.no_grad():
                kernels[kernel](q, k, v, pattern)

        def both(kernel: str) -> None:
            kernels[kernel](q, k, v, pattern).sum().backward()

        runs = [(kernel, work) for kernel in kernels for work in (forward, both)]
        seconds: dict[tuple[str, object], list[float]] = {run: [] for run in runs}
        for _ in range(self.repeats):  # in turn, so that noise of the machine hits all alike
            for kernel, work in runs:
                seconds[kernel, work].append(_seconds(lambda w=work, n=kernel: w(n), device))
        median = {run: statistics.median(times) for run, times in seconds.items()}
        return {kernel: (median[kernel, forward], median[kernel, both]) for kernel in kernels}


def _seconds(work: Callable[[], None], device: torch.device) -> float:
    started = time.perf_counter()
    work()
    if device.type != "cpu":
        torch.accelerator.synchronize()
    return time.perf_counter() - started


if __name__ == "__main__":
    Attention.main()
