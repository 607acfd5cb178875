"""How do time and memory grow with context, batch and depth?

`python benchmarks/growth.py [--quick]` takes one prior (width 256, blocks of 64 positions) and
changes one thing at a time, up to a context of 32,768: a pass that only computes the loss, and one
that goes back for gradients too. Memory is the allocator's peak beyond the weights. The last column
says how fast a cost grows: the exponent between a row and the one before, 1 where it is linear.
"""

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from arithmetic import prior_config
from measuring import Benchmark, Row, curve, figure, in_turn, peak, print_rows, write_csv
from pydantic import Field

from plugins.ground.device import pick_device
from prior.prior import Prior

BLOCK = 64
BASE = {"context": 2048, "batch": 1, "depth": 8}
VALUES = {
    "context": (1024, 2048, 4096, 8192, 16384, 32768),
    "batch": (1, 2, 4, 8),
    "depth": (4, 8, 16, 32),
}
QUICK = {"context": (128, 256), "batch": (1, 2), "depth": (1, 2)}
PASSES = ("forward", "and backward")


class Growth(Benchmark):
    """How cost grows."""

    repeats: int = Field(3, ge=1, description="measurements; the median counts")

    def cli_cmd(self) -> None:
        """Measure, print and write."""
        rows: list[Row] = []
        for against, values in (QUICK if self.quick else VALUES).items():
            for value in values:
                base = {**BASE, "context": 128, "depth": 1} if self.quick else BASE
                rows += self._measure({**base, against: value}, against)
        for row, exponents in zip(rows, _exponents(rows), strict=True):
            row.update(exponents)
        print_rows(rows)
        write_csv(self.out / "growth.csv", rows)
        _draw(rows, self.out / "growth.png")

    def _measure(self, shape: dict[str, int], against: str) -> Iterator[Row]:
        """Both passes of one shape, in turn."""
        device = pick_device(self.device)
        works = _works(shape, device)
        times = in_turn(works, 1 if self.quick else self.repeats, device)
        for passes, work in works.items():
            yield {
                "against": against,
                "value": shape[against],
                "passes": passes,
                "seconds": times[passes],
                "peak_mib": peak(work, device) / 2**20,
            }


def _works(shape: dict[str, int], device: torch.device) -> dict[str, Callable[[], object]]:
    context = shape["context"]
    config = prior_config("tiny", context=context, blocks=context // BLOCK, depth=shape["depth"])
    torch.manual_seed(0)
    prior = Prior(config).to(device)
    codes = torch.randint(config.vocab_size, (shape["batch"], context), device=device)

    def forward() -> None:
        prior.eval()
        with torch.no_grad():
            prior.loss(codes)

    def both() -> None:
        prior.train()
        prior.loss(codes).backward()
        prior.zero_grad(set_to_none=True)

    return dict(zip(PASSES, (forward, both), strict=True))


def _exponents(rows: list[Row]) -> Iterator[Row]:
    """Of time and memory, against the row before of the same pass; none for the first."""
    before: dict[tuple[str, str], Row] = {}
    for row in rows:
        key = str(row["against"]), str(row["passes"])
        earlier, before[key] = before.get(key), row
        yield {
            f"{cost}_exponent": _exponent(earlier, row, cost) if earlier else ""
            for cost in ("seconds", "peak_mib")
        }


def _exponent(earlier: Row, row: Row, cost: str) -> float:
    steps = math.log(float(row["value"]) / float(earlier["value"]))
    return math.log(float(row[cost]) / float(earlier[cost])) / steps


def _draw(rows: list[Row], path: Path) -> None:
    with figure(path, 8, 5) as drawn:
        panels = drawn.subplots(2, len(VALUES), sharey="row")
        for column, against in enumerate(VALUES):
            for look, passes in enumerate(PASSES):
                shown = [r for r in rows if (r["against"], r["passes"]) == (against, passes)]
                for panel, cost in zip(panels[:, column], ("seconds", "peak_mib"), strict=True):
                    curve(panel, [(r["value"], r[cost]) for r in shown], passes, look)
            panels[1, column].set_xlabel(against)
        panels[0, 0].set_ylabel("seconds")
        panels[1, 0].set_ylabel("peak, MiB")
        panels[0, 0].legend(fontsize="small")


if __name__ == "__main__":
    Growth.main()
