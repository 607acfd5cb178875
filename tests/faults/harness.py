"""Runs commands as processes that something may happen to, and compares what they leave.

It knows processes and files, not which commands there are: that is `cases`'s.
"""

import atexit
import contextlib
import functools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plugins.ground.files import PARTIAL

SOAK = int(os.environ.get("JUKEBOX_SOAK", "1"))
"""How many times as much to try."""
PATIENCE = 300.0
"""Seconds after which a command has come to a stop."""


@dataclass(frozen=True)
class Ended:
    """What a process left that has ended."""

    status: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line of a command that refuses; "" if it was content; fails for anything else."""
        assert "Traceback" not in self.err, self.err
        lines = [line for line in self.err.splitlines() if line.startswith("error: ")]
        if self.status == 0 and not lines:
            return ""
        assert (self.status, len(lines)) == (2, 1), f"{self.status}: {self.err}"
        return lines[0]


class Process:
    """A command under way, in a session of its own."""

    def __init__(self, starter: "Starter", number: int) -> None:
        self.starter, self.number = starter, number
        self._ended: Ended | None = None

    def wait(self, seconds: float = PATIENCE) -> Ended | None:
        """What it left, once it has ended; None if it works on after so many seconds."""
        if self._ended is None:
            answer = self.starter.ask({"wait": self.number, "seconds": seconds})
            self._ended = Ended(**answer) if answer["status"] is not None else None
        return self._ended

    def end(self) -> Ended:
        """What it left; fails if it does not end."""
        ended = self.wait()
        assert ended, "it has come to a stop"
        return ended

    def kill(self, number: int = signal.SIGKILL) -> Ended:
        """Send it and its children a signal, and wait for its end."""
        if not self.wait(0):
            os.killpg(self.number, number)
        return self.end()

    def kill_alone(self) -> Ended:
        """Kill it without its children, and wait for its end."""
        os.kill(self.number, signal.SIGKILL)
        return self.end()

    def workers(self) -> list[int]:
        """Its children that work for it."""
        found = []
        for path in Path(f"/proc/{self.number}/task").glob("*/children"):
            for child in path.read_text().split():
                with contextlib.suppress(OSError):
                    if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                        found.append(int(child))
        return found


class Starter:
    """Who starts processes: see `starter`.

    Args:
        path: folders of further modules.
    """

    def __init__(self, *path: Path) -> None:
        here = Path(__file__)
        folders = os.pathsep.join(str(folder) for folder in (*path, here.parents[2]))
        self._process = subprocess.Popen(
            [sys.executable, str(here.with_name("starter.py"))],
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": folders},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Its answer to a question."""
        assert self._process.stdin
        assert self._process.stdout
        print(json.dumps(request), file=self._process.stdin, flush=True)
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def start(
        self,
        words: Sequence[object],
        cwd: Path,
        *,
        file_size: int | None = None,
        memory: int | None = None,
        obedient: bool = False,
    ) -> Process:
        """Start `python -m WORDS`.

        Args:
            words: of the command.
            cwd: folder that it works in.
            file_size: bytes that no file can grow past, as on a disk that fills up.
            memory: bytes that it may take up beside its libraries.
            obedient: modes of files hold for root, too.
        """
        request = {"words": [*map(str, words)], "cwd": str(cwd)}
        limits = {"file_size": file_size, "memory": memory, "obedient": obedient}
        return Process(self, self.ask({**request, **limits})["pid"])

    def run(self, words: Sequence[object], cwd: Path, **limits: Any) -> Ended:
        """Start it as `start` does, and wait for its end."""
        return self.start(words, cwd, **limits).end()

    def close(self) -> None:
        """Start no more."""
        self._process.communicate()


@functools.cache
def starter() -> Starter:
    """The one that all tests of this process share."""
    shared = Starter()
    atexit.register(shared.close)
    return shared


def contents(folder: Path, *patterns: str) -> dict[str, bytes]:
    """The files below a folder that fit a pattern, by relative path; all unless one is given."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for pattern in patterns or ("*",)
        for path in sorted(folder.rglob(pattern))
        if path.is_file()
    }


def partial_files(folder: Path) -> list[str]:
    """What is left below a folder of files that were not published."""
    return [str(path.relative_to(folder)) for path in folder.rglob(f"*{PARTIAL}*")]
