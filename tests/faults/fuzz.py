"""Hostile inputs by the thousand: each either works or is refused in one line.

Run as a program it is the process that tries the cases of one target, so that a library that
crashes, hangs or takes all memory takes no test with it. To replay a case that was lost:

    python tests/faults/fuzz.py TARGET CASE

It does not know what is tried; `targets` does.
"""

import os
import random
import re
import resource
import signal
import subprocess
import sys
import tempfile
import traceback
import warnings
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOAK = int(os.environ.get("JUKEBOX_SOAK", "1"))
"""How many times more cases than usual."""
SECONDS = 20
"""That a case may take; most take a few milliseconds."""
GROWTH = 400 << 20
"""Bytes that a case may add to the process's memory at its peak."""
ROOM = 3 << 30
"""Bytes of addresses that the process may add to those that it has."""
DEATHS = 5
"""After so many crashes of one target the others of its cases are not tried."""


@dataclass
class Result:
    """How the cases of one target ended."""

    tried: int = 0
    lost: list[str] = field(default_factory=list)
    """One line for each."""


def run_target(target: str, cases: int) -> Result:
    """Try cases 0 to `cases` of a target in a process, and in another after one that crashed it."""
    result, first = Result(), 0
    while first < cases and len(result.lost) < DEATHS:
        told, status, err = _run(target, first, cases)
        started = [int(number) for kind, number, _ in told if kind == "case"]
        result.tried += len(started)
        result.lost += [f"{target} {number}: {what}" for kind, number, what in told if what]
        if status == 0:
            break
        died = signal.Signals(-status).name if status < 0 else f"status {status}"
        if not started:
            result.lost.append(f"{target}: {died} before the first case: {err[-2000:]}")
            break
        why = "took too long" if died == "SIGALRM" else f"ended the process with {died}"
        result.lost.append(f"{target} {started[-1]}: {why}: {err[-500:]}")
        first = started[-1] + 1
    return result


def _run(target: str, first: int, stop: int) -> tuple[list[tuple[str, str, str]], int, str]:
    """One process: what it told, its exit status, and its last words."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        run = subprocess.run(
            [sys.executable, __file__, target, str(first), str(stop)],
            cwd=folder,
            env={**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": folder, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
    lines = [line.split(" ", 2) for line in run.stdout.splitlines()]
    told = [(line[0], line[1], line[2] if len(line) > 2 else "") for line in lines]
    return told, run.returncode, run.stderr


def main() -> None:
    """Try cases of a target, telling on stdout which one begins and how it was lost, if it was."""
    from targets import TARGETS

    target, first, *stop = sys.argv[1:]
    alone = not stop
    cases = range(int(first), int(first) + 1 if alone else int(stop[0]))
    telling = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    warnings.simplefilter("ignore")
    # Deep enough that what is written lies in the folder however often it says "..".
    folder = Path.cwd() / "a" / "b" / "c"
    folder.mkdir(parents=True, exist_ok=alone)
    case = TARGETS[target](folder)
    limit = _memory("VmSize") + ROOM
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for number in cases:
        os.write(telling, f"case {number}\n".encode())
        signal.setitimer(signal.ITIMER_REAL, SECONDS)  # its signal ends the process
        before = _forget_peak()
        problem = ""
        try:
            case(random.Random(f"{target} {number}"))
        except (Exception, SystemExit) as error:
            problem = _in_one_line(error)
            if alone:
                traceback.print_exc()
        signal.setitimer(signal.ITIMER_REAL, 0)
        grown = _memory("VmHWM") - before
        if grown > GROWTH and not problem:
            problem = f"took {grown >> 20} MiB"
        if problem:
            os.write(telling, f"lost {number} {problem}\n".encode(errors="replace"))


def _in_one_line(error: BaseException) -> str:
    """What went wrong, and where in this project."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if frame.filename.startswith(str(ROOT))]
    ours = [frame for frame in ours if ".venv" not in frame.filename]
    where = " < ".join(f"{Path(f.filename).name}:{f.lineno}" for f in reversed(ours[-3:]))
    said = " ".join(str(error).split())[:300]
    return f"{type(error).__name__}: {said} ({where})"


def _memory(name: str) -> int:
    """A figure of /proc/self/status, in bytes."""
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) << 10


def _forget_peak() -> int:
    """Let VmHWM begin anew; bytes that are in use now."""
    Path("/proc/self/clear_refs").write_text("5")
    return _memory("VmRSS")


if __name__ == "__main__":
    main()
