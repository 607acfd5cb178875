"""How fast is each attention kernel, what memory does it take, how far is it from `naive`?

`python benchmarks/attention.py [--quick] [--contexts 512,2048,8192] [--batches 1,4] [--blocks 32]
[--patterns row,column]` prints, for every pattern and every kernel of the registry that can serve
here, the median time of a forward and of a forward and backward pass, all kernels in turn; the most
memory that PyTorch's allocator had handed out during one, inputs not counted; the largest
difference from what `naive` gives (outputs, or gradients too); then the kernels that can't serve,
and why. `naive` is quadratic, so it and differences from it end at a context of 2048; kernels that
are compiled for each shape run in one shape only, the longest of one batch that `naive` reaches.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from measuring import Benchmark, Row, curve, figure, in_turn, peak, print_rows, write_csv
from pydantic import Field
from torch import Tensor

from plugins import registry
from plugins.ground.device import pick_device
from prior.attention.base import AttentionKernel, AttentionRequest
from prior.attention.pattern import PATTERNS, Pattern, make_pattern

PASSES = ("forward", "and backward")
NAIVE_UP_TO = 2048
"""Positions."""
MOST = 8192
"""Positions of all items together."""
COMPILED = {"flex"}
"""Kernels that run in the shape that is shown only."""


@dataclass(frozen=True)
class Shape:
    """Of queries, keys and values."""

    context: int
    batch: int
    shown: bool
    """In the page's table."""


@dataclass(frozen=True)
class Run:
    """One kernel's forward pass, or forward and backward: what it computes."""

    kernel: str
    work: Callable[[], Sequence[Tensor]]
    backward: bool


class Attention(Benchmark):
    """Compare attention kernels."""

    contexts: list[int] = Field([512, 2048, 8192], description="positions")
    batches: list[int] = Field([1, 4], description="items")
    blocks: int = Field(32, ge=1, description="blocks that positions are folded into")
    heads: int = Field(4, ge=1, description="attention heads")
    width: int = Field(64, ge=1, description="width of a head")
    patterns: list[str] = Field(list(PATTERNS), description="which patterns")
    repeats: int = Field(3, ge=1, description="measurements; the median counts")

    def cli_cmd(self) -> None:
        """Measure, print and write."""
        shapes = _shapes(
            [128] if self.quick else self.contexts, [2] if self.quick else self.batches
        )
        refusals: dict[str, None] = {}
        rows: list[Row] = []
        for name in self.patterns:
            for shape in shapes:
                compiled = shape.shown and not (self.quick and rows)
                rows += self._measure(name, shape, compiled, refusals)
        print_rows(rows)
        print(*refusals, sep="\n")
        write_csv(self.out / "attention.csv", rows)
        _draw(rows, self.out / "attention.png")

    def _measure(
        self, name: str, shape: Shape, compiled: bool, refusals: dict[str, None]
    ) -> list[Row]:
        """Every kernel that can serve, in turn."""
        device = pick_device(self.device)
        pattern = make_pattern(name, shape.context, self.blocks)
        runs = {
            (run.kernel, run.backward): run.work
            for run in self._runs(pattern, shape, refusals)
            if (run.kernel != "naive" or shape.context <= NAIVE_UP_TO)
            and (run.kernel not in COMPILED or compiled)
        }
        times = in_turn(runs, 1 if self.quick else self.repeats, device)
        peaks = {key: peak(work, device) for key, work in runs.items()}
        rows = []
        for (kernel, backward), work in runs.items():
            taken, most, plain = (
                times[kernel, backward],
                peaks[kernel, backward],
                ("naive", backward),
            )
            known = plain in runs
            rows.append({
                "pattern": name,
                "kernel": kernel,
                "context": shape.context,
                "batch": shape.batch,
                "passes": PASSES[backward],
                "ms": 1e3 * taken,
                "over_naive": taken / times[plain] if known else "",
                "peak_mib": most / 2**20,
                "memory_over_naive": most / peaks[plain] if known else "",
                "error": _apart(work(), runs[plain]()) if known else "",
                "shown": "yes" if shape.shown else "",
            })  # fmt: skip
        return rows

    def _runs(self, pattern: Pattern, shape: Shape, refusals: dict[str, None]) -> list[Run]:
        """What can serve here; the reasons of others are kept."""
        device = pick_device(self.device)
        size = (shape.batch, self.heads, shape.context, self.width)
        q, k, v = (torch.randn(size, device=device, requires_grad=True) for _ in range(3))
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
        return runs


def _shapes(contexts: Sequence[int], batches: Sequence[int]) -> list[Shape]:
    """All that are measured; none is shown if `naive` reaches none of those contexts."""
    longest = max((c for c in contexts if c <= NAIVE_UP_TO), default=0)
    return [
        Shape(context, batch, (context, batch) == (longest, batches[0]))
        for context in contexts
        for batch in batches
        if context * batch <= MOST or batch == 1
    ]


def _apart(some: Sequence[Tensor], others: Sequence[Tensor]) -> float:
    """The largest difference."""
    return max(float((a - b).abs().max()) for a, b in zip(some, others, strict=True))


def _work(
    kernel: AttentionKernel, inputs: tuple[Tensor, Tensor, Tensor], pattern: Pattern, backward: bool
) -> Callable[[], Sequence[Tensor]]:
    def forward() -> Sequence[Tensor]:
        with torch.no_grad():
            return [kernel(*inputs, pattern)]

    def both() -> Sequence[Tensor]:
        made = kernel(*inputs, pattern)
        return [made.detach(), *torch.autograd.grad(made.sum(), inputs)]

    return both if backward else forward


def _draw(rows: Sequence[Row], path: Path) -> None:
    """Time and memory of one item's forward and backward pass, by context."""
    patterns = list(dict.fromkeys(row["pattern"] for row in rows))
    kernels = list(dict.fromkeys(row["kernel"] for row in rows))
    batch = rows[0]["batch"]
    with figure(path, 2.2 * len(patterns) + 1, 4.5) as drawn:
        panels = drawn.subplots(2, len(patterns), sharex=True, sharey="row", squeeze=False)
        for column, pattern in enumerate(patterns):
            for look, kernel in enumerate(kernels):
                shown = [
                    r for r in rows
                    if (r["pattern"], r["kernel"], r["batch"]) == (pattern, kernel, batch)
                    and r["passes"] == PASSES[kernel not in COMPILED]
                ]  # fmt: skip
                label = f"{kernel}, {PASSES[0]} only" if kernel in COMPILED else kernel
                for panel, cost in zip(panels[:, column], ("ms", "peak_mib"), strict=True):
                    curve(panel, [(r["context"], r[cost]) for r in shown], label, look)
            panels[0, column].set_title(pattern)
            panels[1, column].set_xlabel("context")
        panels[0, 0].set_ylabel("ms, and backward")
        panels[1, 0].set_ylabel("peak, MiB")
        panels[0, 0].legend(fontsize="small")


if __name__ == "__main__":
    Attention.main()
