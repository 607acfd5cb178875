"""How fast are codes sampled, by whom, in which precision, how many items at a time?

`python benchmarks/sampling.py [--quick]` runs every kind of steps that serves on two priors of
random weights, `large` and `tiny` of `arithmetic.py`, after a short prompt and, for one item of the
large one, after half the context. It prints codes a second of all items together, the share of the
machine's limit (weights read at its bandwidth, or operations at its peak, whichever is larger),
and how many codes are those of plain float32 steps with the same draws: with lower precision the
numbers differ, and after one other code all further ones may.

`compiled` takes minutes to compile a large prior, for every batch anew, so it runs for one item of
the tiny one; plain steps with int8 weights spend their time on making them floats again, so they
run for few batches. Then comes what lower precision costs a trained prior (`precision.py`).
"""

import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import product
from pathlib import Path

import torch
from arithmetic import prior_bytes, prior_config, prior_operations
from limits import Limits, limits
from measuring import Benchmark, curve, figure, write_csv
from precision import PRECISIONS, bits_per_code
from pydantic import Field
from rich.console import Console
from rich.table import Table
from torch import Tensor

from prior.config import PriorConfig
from prior.engine import Engine
from prior.prior import Prior

BATCHES = (1, 2, 4, 8, 16)
METHODS = ("eager", "compiled", "native")
BYTES = {"float32": (4, 4), "bfloat16": (2, 2), "int8": (1, 4)}
"""Of a weight of the layers and of the output."""
PROMPT = 8
"""Codes, if not half the context."""


@dataclass(frozen=True)
class Speed:
    """Of one way to sample."""

    prior: str
    precision: str
    items: int
    position: int
    """Where steps begin."""
    method: str
    speed: float
    """Codes a second, of all items."""
    share_of_limit: float
    equal: str
    """Codes that are those of the plain path, of all."""


@dataclass(frozen=True)
class Job:
    """What is sampled by all methods in turn."""

    shape: str
    config: PriorConfig
    precision: str
    items: int
    position: int
    count: int
    """Codes of each item that are timed."""

    @property
    def stop(self) -> int:
        """Behind the last code: the first comes with the prompt and is not timed."""
        return self.position + 1 + self.count


class Sampling(Benchmark):
    """Codes a second."""

    repeats: int = Field(3, ge=1, description="measurements; the median counts")

    def cli_cmd(self) -> None:
        """Measure, print and write."""
        most = limits(self.quick)
        table = Table("prior", "precision", "items", "position", "method", "codes / s",
                      "of the limit", "equal")  # fmt: skip
        speeds: list[Speed] = []
        for shape in ("tiny", "large"):
            for precision in PRECISIONS:
                speeds += self._speeds(shape, precision, most)
        for s in speeds:
            numbers = (f"{s.speed:.1f}", f"{s.share_of_limit:.0%}", s.equal)
            table.add_row(s.prior, s.precision, str(s.items), str(s.position), s.method, *numbers)
        Console().print(table)
        write_csv(self.out / "sampling.csv", [vars(speed) for speed in speeds])
        _draw(speeds, self.out / "sampling.png")
        bits = bits_per_code(self.out / "precision", self.quick)
        for row in bits:
            print(f"{row['precision']}: {row['bits_per_code']:.4f} bits per held-out code")
        write_csv(self.out / "precision.csv", bits)

    def _speeds(self, shape: str, precision: str, most: Limits) -> Iterator[Speed]:
        """Of one prior in one precision."""
        prior = PRECISIONS[precision](_made(shape, self.quick))
        config, count = prior.config, 4 if self.quick else {"tiny": 64, "large": 12}[shape]
        job = partial(Job, shape, config, precision, count=count)
        jobs = [job(items=items, position=PROMPT) for items in ((1, 2) if self.quick else BATCHES)]
        if shape == "large":
            jobs.append(job(items=1, position=config.context // 2))
        for one in jobs:
            plain = _plain(one, self.quick)
            methods = [name for name in METHODS if _is_run(name, one, self.quick)]
            runs = {name: Runs(prior, one, name) for name in methods}
            # Half a context takes far longer to fill than steps take from there.
            once = self.quick or one.position != PROMPT
            yield from _measured(runs, one, plain, 1 if once else self.repeats, most)


class Runs:
    """One method's runs of a job, all with the same draws."""

    def __init__(self, prior: Prior, job: Job, method: str) -> None:
        self.job = job
        self.engine = Engine(prior, batch=job.items, length=job.stop, method=method)
        random = torch.Generator().manual_seed(0)
        # Drawn for the largest batch, so that an item has the same draws in every batch.
        shape = (BATCHES[-1], job.position)
        self.prompt = torch.randint(job.config.vocab_size, shape, generator=random)[: job.items]
        shape = (BATCHES[-1], 1 + job.count)
        drawn = torch.rand(shape, generator=random, dtype=torch.float64)
        self.uniforms = drawn[: job.items]

    def codes(self) -> Tensor:
        """All that are sampled, [B, 1 + count]."""
        return self._run()[1]

    def seconds(self) -> float:
        """All but the first, which comes with the prompt."""
        return self._run()[0]

    def _run(self) -> tuple[float, Tensor]:
        stream = self.engine.stream(self.prompt, self.job.stop, self.uniforms)
        codes = [next(stream)]
        started = time.perf_counter()
        codes += stream
        return time.perf_counter() - started, torch.stack(codes, 1)


def _plain(job: Job, quick: bool) -> Tensor:
    """The codes of plain float32 steps, [B, 1 + count]; the same for all precisions."""
    return _plain_of(replace(job, precision="float32"), quick)


@cache
def _plain_of(job: Job, quick: bool) -> Tensor:
    return Runs(_made(job.shape, quick), job, "eager").codes()


def _made(shape: str, quick: bool) -> Prior:
    torch.manual_seed(0)
    smaller = {"width": 128, "depth": 2, "context": 128, "blocks": 16} if quick else {}
    return Prior(prior_config(shape, **smaller)).eval()


def _is_run(method: str, job: Job, quick: bool) -> bool:
    """Whether that method is worth the time it takes."""
    if method == "compiled":
        if job.shape == "large":
            return False
        return job.precision == "float32" and job.items == 1 and job.position == PROMPT
    if method == "eager" and job.shape == "large":
        return job.items in (1, 8) and (job.precision == "float32" or job.position == PROMPT)
    return True


def _measured(
    runs: dict[str, Runs], job: Job, plain: Tensor, repeats: int, most: Limits
) -> Iterator[Speed]:
    """Every method in turn; a first run, which counts codes, is not timed."""
    equal = {name: int((run.codes() == plain).sum()) for name, run in runs.items()}
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            times[name].append(run.seconds())
    operations = prior_operations(job.config) * job.items * job.count
    read = prior_bytes(job.config, *BYTES[job.precision]) * job.count
    for name, taken in times.items():
        median = statistics.median(taken)
        yield Speed(
            job.shape,
            job.precision,
            job.items,
            job.position,
            name,
            job.items * job.count / median,
            max(most.computing(operations, median), most.reading(read, median)),
            f"{equal[name]} of {plain.numel()}",
        )


def _draw(speeds: list[Speed], path: Path) -> None:
    with figure(path) as drawn:
        panels = drawn.subplots(1, 2)
        for panel, shape in zip(panels, ("tiny", "large"), strict=True):
            shown = [s for s in speeds if s.prior == shape and s.position == PROMPT]
            for look, (method, precision) in enumerate(product(METHODS, BYTES)):
                line = [s for s in shown if (s.method, s.precision) == (method, precision)]
                points = [(s.items, s.speed) for s in line]
                curve(panel, points, f"{method}, {precision}", look)
            panel.set_title(f"{shape} prior")
            panel.set_xlabel("items at a time")
            panel.set_ylabel("codes a second")
        panels[0].legend(fontsize="small")


if __name__ == "__main__":
    Sampling.main()
