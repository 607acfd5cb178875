"""All benchmarks of speed and memory, one after the other, and the page that tells of them.

`python benchmarks/bench.py [--quick] [--again]` is `make bench`: each script runs as a process of
its own and leaves tables and figures in `out/bench`; then come `out/bench/summary.csv` and
`docs/performance.md`. Run again, it goes on where it was stopped. With `--quick` everything goes
to `out/bench-quick`, shapes are small and the figures mean nothing: it says whether all runs.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

from measuring import Benchmark
from pydantic import Field
from summary import write_page, write_summary

from plugins.ground.errors import InputError
from plugins.ground.files import write_json

SCRIPTS = ("limits", "peers", "coding", "sampling", "training", "attention", "growth")
HERE = Path(__file__).parent
NOTES = HERE / "notes.md"
DONE = "done.json"
"""Which scripts are done, and how many seconds they took."""
PAGE = HERE.parent / "docs" / "performance.md"


class Bench(Benchmark):
    """Run all benchmarks and write the page."""

    page: Path | None = Field(
        None, description="where the page goes (default: docs/performance.md; --quick: --out)"
    )
    only: list[str] = Field([], description="scripts to run (default: all)")
    again: bool = Field(False, description="start anew, also with scripts that are done")

    def cli_cmd(self) -> None:
        """Run what is not done yet, then write what there is.

        Raises:
            InputError: scripts failed; the others ran, and the page tells of them.
        """
        moved = self.quick and "out" not in self.model_fields_set
        out = Path("out/bench-quick") if moved else self.out
        page = self.page or (out / "performance.md" if self.quick else PAGE)
        out.mkdir(parents=True, exist_ok=True)
        if self.again:
            (out / DONE).unlink(missing_ok=True)
        failed = [name for name in self.only or SCRIPTS if not self._run(name, out)]
        write_summary(out)
        write_page(out, page, NOTES)
        print(f"{out / 'summary.csv'} and {page} are written")
        if failed:
            raise InputError(f"{', '.join(failed)} failed, see above: run this again for those")

    def _run(self, name: str, out: Path) -> bool:
        """Run a script unless it is done; whether it is now."""
        marks = out / DONE
        done: dict[str, float] = json.loads(marks.read_text("utf-8")) if marks.exists() else {}
        if name in done:
            print(f"{name}: done, in {done[name]:.0f} s")
            return True
        started = time.monotonic()
        quick = ["--quick"] if self.quick else []
        command = [sys.executable, str(HERE / f"{name}.py"), "--out", str(out), *quick]
        print(f"\n$ python benchmarks/{name}.py {' '.join(command[2:])}", flush=True)
        if subprocess.run(command, check=False).returncode:
            return False
        write_json(marks, {**done, name: round(time.monotonic() - started, 1)})
        return True


if __name__ == "__main__":
    Bench.main()
