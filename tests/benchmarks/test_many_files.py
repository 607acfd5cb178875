"""The measurement of many files runs, and counts all of them."""

import subprocess
import sys
from pathlib import Path

from summary import read_rows

ROOT = Path(__file__).parents[2]


def test_it_watches_a_run_to_its_end(tmp_path: Path) -> None:
    words = [ROOT / "benchmarks" / "many_files.py", "--quick", "--out", tmp_path]
    done = subprocess.run(
        [sys.executable, *map(str, words)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    rows = read_rows(tmp_path / "many_files.csv")
    files = [int(row["files"]) for row in rows]
    assert files == sorted(set(files))
    assert files[-1] == 200
    assert all(float(row["all_mib"]) > float(row["own_mib"]) > 50 for row in rows)
    assert (tmp_path / "many_files.png").stat().st_size > 5000
    assert "time grows with files to the power of " in done.stdout
