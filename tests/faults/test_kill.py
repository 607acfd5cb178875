"""SIGKILL and SIGTERM at random moments: the same command again ends with the same bytes."""

import contextlib
import os
import random
import signal
import time
from pathlib import Path

import pytest
from cases import Lab
from harness import SOAK

KILLS = 5
"""Of one command in one folder, one after the other."""
KILLED = ("train a codec", "tokenize", "train a prior", "sample", "decode", "convert")
WORKERS = ("--workers", "2")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("name", KILLED)
def test_killed(lab: Lab, tmp_path: Path, name: str, number: signal.Signals) -> None:
    rng = random.Random(f"{name} {number}")
    out, cut, within = lab.begin(name, tmp_path / "0"), 0, lab.seconds(name)
    while cut < KILLS * SOAK:
        process = lab.start(name, out)
        moment = rng.uniform(0, within)
        if ended := process.wait(moment):  # it was done, so the next one begins anew
            assert ended.error == ""
            lab.check(name, out, 0)
            out, within = lab.begin(name, out.with_name(f"{out.name}0")), 0.9 * within
        else:
            # 0: it was at its end.
            assert process.kill(number).status in (-number, 0)
            cut += 1
    lab.finish(name, out, cut)


def test_killed_with_its_workers(lab: Lab, tmp_path: Path) -> None:
    rng, out = random.Random(0), tmp_path / "out"
    for _ in range(SOAK):
        for number in (signal.SIGKILL, signal.SIGTERM):
            process = lab.start("tokenize", out, *WORKERS)
            time.sleep(rng.uniform(0, 4))
            assert process.kill(number).status in (-number, 0)
    assert lab.run("tokenize", out, *WORKERS).error == ""
    lab.check("tokenize", out, 2 * SOAK)


def test_a_worker_is_killed(lab: Lab, tmp_path: Path) -> None:
    """One that dies alone ends the command, which says so; what was coded is kept."""
    rng, out = random.Random(1), tmp_path / "out"
    for _ in range(2 * SOAK):
        process = lab.start("tokenize", out, *WORKERS)
        while not (workers := process.workers()):
            assert not process.wait(0.01)
        time.sleep(rng.uniform(0, 3))
        with contextlib.suppress(ProcessLookupError):  # it was at its end
            os.kill(workers[0], signal.SIGKILL)
        ended = process.end()
        assert "a worker process died" in ended.error or ended.status == 0
    assert lab.run("tokenize", out, *WORKERS).error == ""
    lab.check("tokenize", out, 2 * SOAK)
