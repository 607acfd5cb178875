"""How do rates and memory grow with size, and what would the paper's corpus take?

`python benchmarks/scale.py [--quick] [--page docs/scaling.md]` measures, at several sizes each:
tokenising music with the published codec (a process of its own, as `codec.tokenize` runs it),
training steps of priors, and sampling from them one code after another. It fits how each cost grows
(the exponent of a power law over the sizes, by least squares), then says what 1.2 million songs
would take (`scale_plan.py`). Tables go to `scale.csv` and `plan.csv`, the curves to `scale.png`;
with `--page` also into a page, behind the text of `scaling.md`.
"""

import contextlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import psutil
import torch
from arithmetic import prior_config, prior_operations
from limits import Limits, limits
from made import random_codec
from measuring import Benchmark, Row, curve, figure, in_turn, peak, print_rows, write_csv
from music import music
from pydantic import Field
from scale_plan import Rates, plan, write_page
from training import Kind, training_step

from codec.audio import write_audio
from codec.checkpoint import save_codec
from codec.config import VQVAEConfig
from codec.corpus import Corpus
from plugins.ground.device import pick_device
from prior.engine import Engine
from prior.prior import Prior

FILE = 20
"""Seconds of music in a file."""
FILES = (1, 2, 4, 8)
WIDTHS = (128, 256, 512, 768)
"""Of priors to train and sample from; depth 16, context 2048."""
SHAPE = {"depth": 16, "context": 2048, "blocks": 32}
SAMPLED = 64
"""Codes."""
BETWEEN = 0.05
"""Seconds from one look at memory to the next."""
NOTES = Path(__file__).with_name("scaling.md")
TASKS = ("tokenize", "train", "sample")


class Scale(Benchmark):
    """How cost grows with size, and what the paper's corpus would take."""

    repeats: int = Field(3, ge=1, description="measurements; the median counts")
    page: Path | None = Field(None, description="Markdown page to write")

    def cli_cmd(self) -> None:
        """Measure, print and write."""
        most = limits(self.quick)
        tokenized, bytes_per_code = self._tokenizing()
        rows = [*tokenized, *self._training(most), *self._sampling(most)]
        grown = [_growth(task, [row for row in rows if row["what"] == task]) for task in TASKS]
        print_rows(rows)
        print_rows(grown)
        write_csv(self.out / "scale.csv", rows)
        _draw(rows, self.out / "scale.png")
        last = [row for row in rows if row["what"] == "train"][-1]
        rates = Rates(
            tokenizing=_rate(tokenized),
            bytes_per_code=bytes_per_code,
            training_share=float(last["share_of_peak"]),
            peak_gflops=most.peak_gflops,
        )
        planned = plan(rates)
        print_rows(planned)
        write_csv(self.out / "plan.csv", planned)
        if self.page is not None:
            write_page(self.page, NOTES, rates, {"grown": grown, "rows": rows}, planned, self.out)

    def _tokenizing(self) -> tuple[list[Row], float]:
        """Rows, and bytes of a code in the files of the largest corpus."""
        config = VQVAEConfig(width=4, depth=1) if self.quick else VQVAEConfig()
        rows: list[Row] = []
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            save_codec(random_codec(config), folder / "codec")
            counts = (1, 2, 3) if self.quick else FILES
            # Other music in every file: what is alike would be stored for nothing.
            pieces = np.split(music(FILE * counts[-1], config.sample_rate), counts[-1])
            for count in counts:
                songs = folder / f"songs-{count}"
                for number, piece in enumerate(pieces[:count]):
                    write_audio(songs / f"{number}.wav", piece[None], config.sample_rate)
                out = folder / f"tokens-{count}"
                taken, most = _tokenize(songs, folder / "codec", out)
                rows.append(_row("tokenize", "seconds of audio", count * FILE, taken, most))
            corpus = Corpus(out)
            codes = sum(corpus.lengths(stream.name).sum() for stream in corpus.spec.streams)
            size = sum(file.stat().st_size for file in out.glob("*.parquet"))
        return rows, size / codes

    def _training(self, most: Limits) -> Iterator[Row]:
        device = pick_device(self.device)
        for prior in self._priors():
            codes = torch.randint(prior.config.vocab_size, (2, prior.config.context))
            step = training_step(prior.to(device), Kind("lean"), codes.to(device), half=False)
            taken = in_turn({"step": step}, 1 if self.quick else self.repeats, device)["step"]
            # Forward, and twice as much for the gradients of inputs and weights.
            operations = 3 * prior_operations(prior.config) * codes.numel()
            weights = sum(p.numel() for p in prior.parameters())
            yield {
                **_row("train", "parameters", weights, taken, peak(step, device), codes.numel()),
                "share_of_peak": most.computing(operations, taken),
            }

    def _sampling(self, most: Limits) -> Iterator[Row]:
        for prior in self._priors():
            count = 4 if self.quick else SAMPLED
            taken = _sampling_seconds(prior.eval(), count, 1 if self.quick else self.repeats)
            weights = sum(p.numel() for p in prior.parameters())
            size = sum(p.numel() * p.element_size() for p in prior.parameters())
            yield {
                **_row("sample", "parameters", weights, taken, size, count),
                "share_of_peak": most.computing(prior_operations(prior.config) * count, taken),
            }

    def _priors(self) -> Iterator[Prior]:
        smaller = {"depth": 2, "context": 128, "blocks": 8} if self.quick else {}
        for width in (32, 64, 128) if self.quick else WIDTHS:
            torch.manual_seed(0)
            yield Prior(prior_config("train", **{**SHAPE, **smaller, "width": width}))


def _sampling_seconds(prior: Prior, count: int, repeats: int) -> float:
    """Median time of so many codes one after another, not counting the first run."""
    engine = Engine(prior, batch=1, length=count + 2)
    start = torch.zeros(1, 1, dtype=torch.int64)
    uniforms = torch.rand(1, count + 1, dtype=torch.float64)
    times = []
    for _ in range(1 + repeats):
        stream = engine.stream(start, count + 2, uniforms)
        next(stream)  # comes with the prompt
        began = time.perf_counter()
        for _ in stream:
            pass
        times.append(time.perf_counter() - began)
    return statistics.median(times[1:])


def _row(
    what: str, unit: str, size: float, seconds: float, memory: float, work: float | None = None
) -> Row:
    """A measurement; `work` is what the rate counts, the size itself unless given."""
    return {
        "what": what,
        "unit": unit,
        "size": float(size),
        "seconds": seconds,
        "rate": (size if work is None else work) / seconds,
        "memory_mib": memory / 2**20,
        "share_of_peak": "",
    }


def _tokenize(songs: Path, codec: Path, out: Path) -> tuple[float, int]:
    """Seconds and peak resident bytes of a process that tokenizes a folder."""
    words = ["codec.tokenize", str(songs), "--codec", str(codec), "--out", str(out)]
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    watched, most = psutil.Process(process.pid), 0
    while process.poll() is None:
        with contextlib.suppress(psutil.Error):  # gone in the meantime
            most = max(most, watched.memory_info().rss)
        time.sleep(BETWEEN)
    assert process.returncode == 0
    return time.perf_counter() - started, most


def _rate(rows: Sequence[Row]) -> float:
    """Size a second of further size, without what a process takes to start."""
    sizes, seconds = ([float(row[name]) for row in rows] for name in ("size", "seconds"))
    return float(1 / np.polyfit(sizes, seconds, 1)[0])


def _growth(task: str, rows: Sequence[Row]) -> Row:
    """Exponents of seconds and memory over the sizes of a task."""
    sizes = np.log([float(row["size"]) for row in rows])
    found: Row = {"what": task, "over": rows[0]["unit"]}
    for cost in ("seconds", "memory_mib"):
        slope = np.polyfit(sizes, np.log([float(row[cost]) for row in rows]), 1)[0]
        found[f"{cost}_exponent"] = float(slope)
    return found


def _draw(rows: Sequence[Row], path: Path) -> None:
    with figure(path, 9, 5) as drawn:
        panels = drawn.subplots(2, len(TASKS))
        for column, task in enumerate(TASKS):
            shown = [row for row in rows if row["what"] == task]
            for panel, cost in zip(panels[:, column], ("seconds", "memory_mib"), strict=True):
                curve(panel, [(row["size"], row[cost]) for row in shown], task, column)
            for panel in panels[:, column]:  # a decade at least, or noise would look like growth
                low, high = panel.get_ylim()
                panel.set_ylim(min(low, high / 10), high)
            panels[0, column].set_title(task)
            panels[1, column].set_xlabel(shown[0]["unit"])
        panels[0, 0].set_ylabel("seconds")
        panels[1, 0].set_ylabel("memory, MiB")


if __name__ == "__main__":
    Scale.main()
