"""How fast is this toolkit beside transformers? Same shapes, same machine, one run, taking turns.

`python benchmarks/peers.py [--quick]` compares with the Jukebox of `transformers` 4.57.6 (no later
one has it) what both can do: code and decode audio, sample one code after another, fill a cache,
pass over a window, train. Further rows show its EnCodec, DAC and MusicGen at like size, which are
other models. All weights are random.

That side lives in an environment of its own, which this script makes if it isn't there (about a
gigabyte; with `--quick` nothing is measured then). Each side is a process of its own
(`ours_worker.py`, `peers_worker.py`) that answers when it is asked, so that only one works at a
time and the turns are A, B, A, B. Medians count.
"""

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from limits import Limits, limits
from measuring import Benchmark, figure, write_csv
from music import music
from peers_cases import RATES, SECONDS, Case, Question, Request, jukebox_cases, other_cases
from pydantic import Field
from rich.console import Console
from rich.table import Table

from plugins.ground.errors import InputError

HERE = Path(__file__).parent
PACKAGES = ("torch==2.13.0", "transformers==4.57.6", "numpy")
PROBE = "import numpy, torch, transformers; print(transformers.__version__)"


@dataclass(frozen=True)
class Row:
    """One answer."""

    question: str
    ours: float
    peer: float
    unit: str
    ratio: float
    """Ours over the peer's: above 1 is good for speeds, below for memory."""
    share_of_limit: float | None
    model: str = "Jukebox"
    """What the peer is."""


class Peers(Benchmark):
    """Compare this toolkit with transformers."""

    environment: Path = Field(
        Path("out/bench/peers-env"), description="where the other side is installed"
    )
    only: list[str] = Field([], description="questions to answer (default: all)")

    def cli_cmd(self) -> None:
        """Measure, print and write.

        Raises:
            InputError: the other side can't be installed, or one side fails.
        """
        if self.quick and not self.environment.exists():
            print(f"left out: {self.environment} isn't there; without --quick it is installed")
            return
        python = environment(self.environment)
        with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
            audio = {rate: Path(folder) / f"{rate}.npy" for rate in RATES}
            for rate, path in audio.items():
                np.save(path, music(SECONDS[self.quick], rate))
            workers = Workers(stack, python)
            most = limits(self.quick)
            found = []
            for case in [*jukebox_cases(self.quick, audio), *other_cases(self.quick, audio)]:
                if not self.only or {q.name for q in case.questions} & {*self.only}:
                    found.append((case, workers.answers(case)))
                    print(*(f"{r.question}: {r.ratio:.2f}" for r in _rows(*found[-1], most)))
            most = limits(self.quick, most)
        rows = [row for case, answers in found for row in _rows(case, answers, most)]
        self._show(rows)

    def _show(self, rows: list[Row]) -> None:
        table = Table("question", "beside", "ours", "peer", "unit", "ours / peer", "of the limit")
        for row in rows:
            share = "" if row.share_of_limit is None else f"{row.share_of_limit:.0%}"
            numbers = (f"{row.ours:.4g}", f"{row.peer:.4g}", row.unit, f"{row.ratio:.2f}", share)
            table.add_row(row.question, row.model, *numbers)
        Console().print(table)
        write_csv(self.out / "peers.csv", [vars(row) for row in rows])
        with figure(self.out / "peers.png", 8, 0.3 * len(rows) + 1) as drawn:
            panel = drawn.subplots()
            names = [f"{r.question} ({r.model})" for r in rows][::-1]
            panel.barh(names, [row.ratio for row in rows][::-1])
            panel.axvline(1, color="black", linewidth=0.8)
            panel.set_xscale("log")
            panel.set_xlabel("ours / peer; 1: alike")


def environment(folder: Path) -> Path:
    """The Python of the environment that holds the other side, complete.

    Raises:
        InputError: it isn't there and can't be installed.
    """
    python = folder.resolve() / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    if _is_complete(python):
        return python
    print(f"installing {', '.join(PACKAGES)} into {folder}", flush=True)
    for command in (
        [sys.executable, "-m", "venv", "--clear", str(folder)],
        [str(python), "-m", "pip", "install", "--quiet", *PACKAGES],
    ):
        if subprocess.run(command, check=False).returncode:
            raise InputError(f"{folder} can't be made: see above; give --environment one that is")
    if not _is_complete(python):
        raise InputError(f"{folder} lacks some of {', '.join(PACKAGES)}")
    return python


def _is_complete(python: Path) -> bool:
    if not python.exists():
        return False
    said = subprocess.run([str(python), "-c", PROBE], capture_output=True, text=True, check=False)
    return said.stdout.strip() == PACKAGES[1].partition("==")[2]


class Workers:
    """Processes of both sides, started when they are first asked."""

    def __init__(self, stack: ExitStack, python: Path) -> None:
        self._stack = stack
        self._started: dict[str, subprocess.Popen[str]] = {}
        self._programs = {"peer": (python, HERE / "peers_worker.py")}

    def answers(self, case: Case) -> dict[str, dict[str, float]]:
        """The median of what each side measured, by side and measure."""
        found: dict[str, list[dict[str, float]]] = {side: [] for side in case.sides}
        for turn in range(-1 if case.repeats > 1 else 0, case.repeats):
            for side, request in case.sides.items():
                answer = self._ask(side, request)
                if turn >= 0:  # one before is not counted: caches and threads are cold
                    found[side].append(answer)
        return {
            side: {key: statistics.median(a[key] for a in answers) for key in answers[0]}
            for side, answers in found.items()
        }

    def _ask(self, side: str, request: Request) -> dict[str, float]:
        if side not in self._started:
            program = self._programs.get(side, (sys.executable, HERE / "ours_worker.py"))
            self._started[side] = self._stack.enter_context(_process(*program))
        process = self._started[side]
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(vars(request)) + "\n")
        process.stdin.flush()
        line = process.stdout.readline()
        answer = json.loads(line) if line else {"error": "its process ended"}
        if "error" in answer:
            raise InputError(f"{side} failed at {request.task}: {answer['error']}; see above")
        return answer


@contextmanager
def _process(python: str | Path, script: Path) -> Iterator["subprocess.Popen[str]"]:
    command = [str(python), str(script), str(torch.get_num_threads())]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


def _rows(case: Case, answers: Mapping[str, Mapping[str, float]], most: Limits) -> Iterator[Row]:
    for question in case.questions:
        ours, peer = answers[question.side], answers["peer"]
        row = _row(question, ours[question.measure], peer[question.measure], most)
        if size := peer.get("parameters"):
            row = replace(row, model=f"{row.model}, {size / 1e6:.1f} million parameters")
        yield row


def _row(question: Question, ours: float, peer: float, most: Limits) -> Row:
    """What one measurement of both sides says."""
    name, unit, model = question.name, question.unit, question.model
    if question.measure == "bytes":
        return Row(name, ours / 2**20, peer / 2**20, unit, ours / peer, None, model)
    share = max(most.computing(question.operations, ours), most.reading(question.read, ours))
    speeds = (question.amount / ours, question.amount / peer)
    return Row(name, *speeds, unit, peer / ours, share or None, model)


if __name__ == "__main__":
    Peers.main()
