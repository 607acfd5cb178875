"""Too little memory: one line or a death, but no damaged file; and afterwards the same bytes."""

import random
from pathlib import Path

import pytest
from cases import WRITERS, Lab
from harness import SOAK

LEAST, MOST = 20, 27
"""Powers of two: bytes beside the libraries."""
STOPPED = 60.0
"""Seconds after which a command has come to a stop."""
TOLD = "error: not enough memory"


@pytest.mark.parametrize("name", WRITERS)
def test_too_little_memory(lab: Lab, tmp_path: Path, name: str) -> None:
    rng, out = random.Random(name), lab.begin(name, tmp_path / "out")
    for _ in range(4 * SOAK):
        process = lab.start(name, out, memory=int(2 ** rng.uniform(LEAST, MOST)))
        # Python waits for ever for a thread that lacked the memory to begin.
        ended = process.wait(STOPPED) or process.kill()
        # Threads of libraries, which lack memory too, may add their word to the line.
        assert ended.status < 0 or TOLD in ended.err or ended.error is not None
    lab.finish(name, out, 4 * SOAK)
