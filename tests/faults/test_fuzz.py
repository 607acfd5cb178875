"""Thousands of hostile inputs, the same ones every time: each works or is refused in one line."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from counting import count
from fuzz import SOAK, Result, run_target

CASES = {
    "audio": 800,
    "corpora": 500,
    "mapped": 150,
    "metadata": 350,
    "lyrics": 400,
    "configs": 200,
    "codecs": 200,
    "priors": 150,
    "trainings": 100,
    "published": 150,
    "decoded": 100,
}


@pytest.mark.skipif(sys.platform != "linux", reason="limits and peaks of memory are Linux's")
@pytest.mark.timeout(600 * SOAK)
@pytest.mark.parametrize("target", CASES)
def test_hostile_input(target: str) -> None:
    result = run_target(target, CASES[target] * SOAK)
    count("hostile inputs", result.tried, len(result.lost))
    shown = "\n".join(result.lost[:20])
    assert not result.lost, f"to replay: python tests/faults/fuzz.py TARGET CASE\n{shown}"
    assert result == Result(CASES[target] * SOAK)
