"""Runs a command as a process, kills it at random moments, and starts it again until it is done."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

KILLS = 5
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def run(words: Sequence[object], out: Path) -> float:
    """Run `python -m WORDS --out OUT` to its end; seconds from its first written file on."""
    with _started(words, out, subprocess.PIPE) as process:
        _wait_for_a_file(process, out)
        began = time.monotonic()
        _, said = process.communicate()
        assert process.returncode == 0, said.decode()
    return time.monotonic() - began


def run_with_kills(words: Sequence[object], out: Path, work: float, seed: int) -> int:
    """Run it to its end through `KILLS` SIGKILLs of the process and its children.

    Args:
        words: of the command.
        out: its output folder.
        work: seconds that an undisturbed run works. Each kill falls at a random moment of the
            third that follows the first written file, so that five runs get through most of it.
        seed: of the moments.

    Returns:
        How many runs were really cut off.
    """
    rng, cut = random.Random(seed), 0
    for _ in range(KILLS):
        with _started(words, out, subprocess.DEVNULL) as process:
            _wait_for_a_file(process, out)
            try:
                assert process.wait(rng.uniform(0, 0.3) * work) == 0
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                cut += 1
    run(words, out)
    return cut


def _started(words: Sequence[object], out: Path, stderr: int) -> "subprocess.Popen[bytes]":
    """The command in a session of its own, so that its children can be killed with it."""
    return subprocess.Popen(
        [sys.executable, "-m", *map(str, words), "--out", str(out)],
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=stderr,
        start_new_session=True,
    )


def _wait_for_a_file(process: "subprocess.Popen[bytes]", out: Path) -> None:
    """Until something below `out` has changed; importing libraries is not worth interrupting."""
    before = _snapshot(out)
    while process.poll() is None and _snapshot(out) == before:
        time.sleep(0.01)


def _snapshot(folder: Path) -> dict[str, int]:
    found = {}
    for path in folder.rglob("*"):
        try:
            found[str(path)] = path.stat().st_mtime_ns
        except FileNotFoundError:  # renamed in the meantime
            found[str(path)] = 0
    return found


def contents(folder: Path, *patterns: str) -> dict[str, bytes]:
    """The files below a folder that fit a pattern, by relative path."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for pattern in patterns
        for path in sorted(folder.rglob(pattern))
    }
