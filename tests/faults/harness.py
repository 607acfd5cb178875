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


def run(words: Sequence[object]) -> float:
    """Run `python -m ...` to its end; seconds that it took."""
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", *map(str, words)],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return time.monotonic() - started


def run_with_kills(words: Sequence[object], seconds: float, seed: int) -> int:
    """Run it to its end through `KILLS` SIGKILLs of the process and its children.

    Args:
        words: of the command.
        seconds: how long an undisturbed run takes; each kill falls at a random moment of that.
        seed: of the moments.

    Returns:
        How many runs were really cut off.
    """
    rng, cut = random.Random(seed), 0
    for _ in range(KILLS):
        with subprocess.Popen(
            [sys.executable, "-m", *map(str, words)],
            env=ENVIRONMENT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        ) as process:
            try:
                # The first part of a run is imports, where nothing can be lost.
                status = process.wait(rng.uniform(0.4, 1.0) * seconds)
                assert status == 0
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                cut += 1
    run(words)
    return cut


def contents(folder: Path, *patterns: str) -> dict[str, bytes]:
    """The files below a folder that fit a pattern, by relative path."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for pattern in patterns
        for path in sorted(folder.rglob(pattern))
    }
