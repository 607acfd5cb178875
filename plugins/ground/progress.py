"""A progress bar with rate and time left; a line now and then where there is no terminal.

It does not know what is being counted.
"""

import sys
import time
from types import TracebackType

from typing_extensions import Self

SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """Counts `unit`s of work up to `total` on stderr.

    Args:
        total: how many there are, or None where nobody knows.
        what: the work, in the present participle ("tokenizing").
        unit: what is counted ("files").
        done: how many were there before this run.
        quiet: count, but show nothing.
    """

    def __init__(
        self, total: int | None, what: str, unit: str, done: int = 0, quiet: bool = False
    ) -> None:
        self.total, self.what, self.unit, self.quiet = total, what, unit, quiet
        self.done = self._first = done
        self._figures = ""
        self._started = self._printed = time.monotonic()
        self._bar = self._rich() if sys.stderr.isatty() and not quiet else None

    def _rich(self):  # type: ignore[no-untyped-def]  # rich is slow to import where it is not shown
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            TextColumn,
            TimeRemainingColumn,
        )
        from rich.progress import Progress as Rich

        bar = Rich(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}  {task.fields[figures]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        bar.add_task(self.what, total=self.total, completed=self.done, unit=self.unit, figures="")
        return bar

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        if self._bar:
            self._bar.stop()
        elif kind is None and self.done > self._first:
            self._line()

    def advance(self, count: int = 1, **figures: float | str) -> None:
        """Count `count` more units; `figures` are shown beside them until there are newer ones."""
        self.done += count
        if figures:
            self._figures = "  ".join(
                f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
                for name, value in figures.items()
            )
        if self._bar:
            self._bar.update(
                self._bar.task_ids[0],
                completed=self.done,
                figures=f"{self._rate():.3g}/s  {self._figures}",
            )
        elif time.monotonic() - self._printed >= SECONDS_BETWEEN_LINES:
            self._line()

    def _rate(self) -> float:
        return (self.done - self._first) / max(time.monotonic() - self._started, 1e-9)

    def _line(self) -> None:
        if self.quiet:
            return
        self._printed = time.monotonic()
        of, left = "", ""
        if self.total is not None:
            of = f"/{self.total}"
            seconds = (self.total - self.done) / max(self._rate(), 1e-9)
            left = f", {seconds:.0f} s left" if seconds >= 1 else ""
        print(
            f"{self.what}: {self.done}{of} {self.unit}, {self._rate():.3g}/s{left}"
            + (f"  {self._figures}" if self._figures else ""),
            file=sys.stderr,
            flush=True,
        )
