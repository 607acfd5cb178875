"""Two processes that write one folder: one is refused or both end well, and nothing is mixed."""

import random
import time
from pathlib import Path

import pytest
from cases import WRITERS, Lab
from harness import SOAK


@pytest.mark.parametrize("name", WRITERS)
def test_two_at_once(lab: Lab, tmp_path: Path, name: str) -> None:
    rng = random.Random(name)
    for number in range(2 * SOAK):
        out = lab.begin(name, tmp_path / str(number))
        both = [lab.start(name, out)]
        time.sleep(number % 2 * rng.uniform(0, lab.seconds(name)))
        both.append(lab.start(name, out))
        errors = [process.end().error for process in both]
        assert "" in errors
        assert all(not said or "another process writes to" in said for said in errors)
        lab.check(name, out, 1)


def test_a_folder_is_free_once_its_writer_was_killed(lab: Lab, tmp_path: Path) -> None:
    """Also while the writer's children live on for a moment."""
    first = lab.start("tokenize", tmp_path / "out", "--workers", "2")
    while not first.workers():
        assert not first.wait(0.01)
    first.kill_alone()
    lab.finish("tokenize", tmp_path / "out", 1)
