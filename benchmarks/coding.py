"""How fast does the published codec code and decode, by which engine, and what memory does it take?

`python benchmarks/coding.py [--quick]` has two parts. Speed: each engine, level and direction in
turn, on real music, in seconds of audio a second and as a share of the machine's peak. Length: up
to an hour of audio, each length in a process of its own (`coding_length.py`), with its time and
memory. Weights are random, which changes neither.

It is not called after its subject, since `codec` is the package that it measures.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from arithmetic import CODEC, decode_operations, encode_operations
from limits import Limits, limits
from made import random_codec
from measuring import Benchmark, Row, figure, in_turn, print_rows, write_csv
from music import music
from pydantic import Field
from rich.console import Console
from rich.table import Table
from torch import Tensor

from codec.base import Codec
from codec.config import VQVAEConfig
from plugins.ground.errors import InputError

ENGINES = ("eager", "native")
LENGTHS = {
    ("encode", "auto"): (10, 60, 3600),
    ("encode", "eager"): (10, 60),
    ("decode", "auto"): (10, 60, 180),
    ("decode", "eager"): (10, 60),
}
"""Seconds of audio."""
QUICK = {("encode", "auto"): (0.2, 0.4), ("decode", "auto"): (0.4,)}


@dataclass(frozen=True)
class Speed:
    """Of one engine in one direction."""

    what: str
    level: str
    engine: str
    speed: float
    """Seconds of audio a second."""
    share_of_limit: float


class Coding(Benchmark):
    """Speed and memory of the codec."""

    seconds: float | None = Field(None, description="of audio (default: 10; --quick: 0.2)")
    repeats: int = Field(3, ge=1, description="measurements; the median counts")

    def cli_cmd(self) -> None:
        """Measure, print and write."""
        speeds = self._speeds(limits(self.quick))
        write_csv(self.out / "coding.csv", [vars(speed) for speed in speeds])
        table = Table("what", "level", "engine", "x real time", "of the limit")
        for speed in speeds:
            numbers = (f"{speed.speed:.2f}", f"{speed.share_of_limit:.0%}")
            table.add_row(speed.what, speed.level, speed.engine, *numbers)
        Console().print(table)
        _draw_speeds(speeds, self.out / "coding.png")
        self._lengths()

    def _speeds(self, most: Limits) -> list[Speed]:
        seconds = self.seconds or (0.2 if self.quick else 10)
        works = _works(seconds)
        times = in_turn(works, 1 if self.quick else self.repeats, torch.device("cpu"))
        speeds = []
        for (what, level, engine), taken in times.items():
            number = None if level == "all" else int(level)
            encode = what == "encode"
            needed = encode_operations(number) if encode else decode_operations(int(level))
            share = most.computing(needed * seconds, taken)
            speeds.append(Speed(what, level, engine, seconds / taken, share))
        return speeds

    def _lengths(self) -> None:
        rows = []
        for (what, engine), lengths in (QUICK if self.quick else LENGTHS).items():
            for seconds in lengths:
                rows.append(_apart(what, engine, seconds))
        print_rows(rows)
        write_csv(self.out / "coding_length.csv", rows)
        _draw_lengths(rows, self.out / "coding_length.png")


def _works(seconds: float) -> dict[tuple[str, str, str], Callable[[], object]]:
    """By direction, level and engine. A codec of one level is that level of the published one."""
    audio = torch.from_numpy(music(seconds, CODEC.sample_rate))[None, None]  # [1, 1, T]
    works: dict[tuple[str, str, str], Callable[[], object]] = {}
    for level in ("all", *CODEC.stream_names):
        model = random_codec(CODEC if level == "all" else _only(int(level)))
        codes = model.encode(audio)
        for engine in ENGINES:
            works["encode", level, engine] = partial(_coded, model, engine, audio)
            if level != "all":
                works["decode", level, engine] = partial(_decoded, model, engine, codes)
    return dict(sorted(works.items(), key=lambda named: named[0][:2]))


def _coded(model: Codec, engine: str, audio: Tensor) -> None:
    model.use_engine(engine)
    model.encode(audio)


def _decoded(model: Codec, engine: str, codes: Mapping[str, Tensor]) -> None:
    model.use_engine(engine)
    model.decode(codes)


def _only(level: int) -> VQVAEConfig:
    halvings = (sum(CODEC.halvings[: level + 1]),)
    multipliers = (CODEC.multipliers[level],)
    return CODEC.model_copy(update={"halvings": halvings, "multipliers": multipliers})


def _apart(what: str, engine: str, seconds: float) -> Row:
    """One length in a process of its own."""
    script = Path(__file__).with_name("coding_length.py")
    command = [sys.executable, str(script), what, engine, str(seconds)]
    threads = [str(torch.get_num_threads())]
    done = subprocess.run([*command, *threads], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise InputError(f"{what} of {seconds} s by {engine} failed: see above")
    return {"what": what, "engine": engine, "seconds": seconds, **json.loads(done.stdout)}


def _draw_speeds(speeds: list[Speed], path: Path) -> None:
    with figure(path) as drawn:
        panel = drawn.subplots()
        places = list(dict.fromkeys(f"{s.what} {s.level}" for s in speeds))
        for shift, engine in enumerate(ENGINES):
            shown = [speed for speed in speeds if speed.engine == engine]
            at = [places.index(f"{s.what} {s.level}") + 0.4 * shift for s in shown]
            panel.bar(at, [speed.speed for speed in shown], 0.38, label=engine)
        panel.set_xticks([place + 0.2 for place in range(len(places))], places)
        panel.set_ylabel("seconds of audio a second")
        panel.legend()


def _draw_lengths(rows: list[Row], path: Path) -> None:
    with figure(path) as drawn:
        panels = drawn.subplots(1, 2)
        titles = {"taken": "seconds", "resident_mib": "memory, MiB"}
        for panel, (column, title) in zip(panels, titles.items(), strict=True):
            for what, engine in dict.fromkeys((row["what"], row["engine"]) for row in rows):
                shown = [r for r in rows if (r["what"], r["engine"]) == (what, engine)]
                points = [r["seconds"] for r in shown], [r[column] for r in shown]
                panel.loglog(*points, marker="o", label=f"{what}, {engine}")
            panel.set_xlabel("seconds of audio")
            panel.set_ylabel(title)
        panels[0].legend()


if __name__ == "__main__":
    Coding.main()
