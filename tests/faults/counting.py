"""How much the tests of this folder tried and lost, over all processes that run them.

Imported by `tests/conftest.py`, which is loaded where results are summed up.
"""

import json
import os
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

VARIABLE = "JUKEBOX_COUNTS"
"""Names the file, in the environment, which workers of pytest-xdist inherit."""


def count(kind: str, tried: int, lost: int) -> None:
    """Add to what is told at the end of the tests.

    Args:
        kind: what was tried: "faults", "hostile inputs".
        tried: how many.
        lost: how many of them ended otherwise than they should.
    """
    if path := os.environ.get(VARIABLE):
        with open(path, "a", encoding="utf-8") as file:  # one short write: lines don't mix
            file.write(json.dumps([kind, tried, lost]) + "\n")


def pytest_configure(config: Any) -> None:
    """Make the file, once: not again in the workers."""
    if hasattr(config, "workerinput"):
        return
    handle, path = tempfile.mkstemp(prefix="jukebox-counts-", suffix=".jsonl")
    os.close(handle)
    os.environ[VARIABLE] = path
    config.add_cleanup(lambda: Path(path).unlink(missing_ok=True))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """One line, as "faults: 40 tried, 0 lost; hostile inputs: 3000 tried, 0 lost"."""
    tried: Counter[str] = Counter()
    lost: Counter[str] = Counter()
    for line in Path(os.environ[VARIABLE]).read_text("utf-8").splitlines():
        kind, one, other = json.loads(line)
        tried[kind] += one
        lost[kind] += other
    if tried:
        told = (f"{kind}: {tried[kind]} tried, {lost[kind]} lost" for kind in sorted(tried))
        terminalreporter.write_line("; ".join(told))
