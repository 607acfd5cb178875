"""Does tokenizing many files take time in proportion to them, and memory that stays?

`python benchmarks/many_files.py [--quick] [--files 10000] [--workers 2]` cuts real music into short
files of several formats, tokenizes them in a process of its own with a small codec, and watches it:
files in the corpus, and resident memory of the process and of all that it started. Time counts from
the first shard on, when everybody has begun. The last lines say by how many MiB memory grew from
the first thousand files to the last, and the exponent of time against files, 1 where it is linear.
"""

import itertools
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
import soundfile
from made import random_codec
from measuring import Benchmark, Row, curve, figure, print_rows, write_csv
from music import blocks
from pydantic import Field

from codec.checkpoint import save_codec
from codec.config import PRESETS, VQVAEConfig
from codec.shards import MANIFEST, read_manifest
from plugins.ground.errors import InputError

CODEC = VQVAEConfig(**PRESETS["tiny"])
SECONDS = 0.5
SUFFIXES = ("wav", "flac", "ogg", "mp3")
IN_A_FOLDER = 500
STEPS = 10
"""Rows of the table."""
BETWEEN = 0.25
"""Seconds from one look to the next."""


class Look(NamedTuple):
    """What was seen of a run at a moment."""

    seconds: float
    files: int
    own_mib: float
    all_mib: float


class ManyFiles(Benchmark):
    """Time and memory against files."""

    files: int = Field(10_000, ge=10, description="how many")
    workers: int = Field(2, ge=1, description="of codec.tokenize")
    engine: str = Field("auto", description="of codec.tokenize")
    shard_tracks: int = Field(64, ge=1, description="of codec.tokenize")

    def cli_cmd(self) -> None:
        """Cut, tokenize, print and write.

        Raises:
            InputError: the run failed.
        """
        count = 200 if self.quick else self.files
        with tempfile.TemporaryDirectory(prefix="many-files-") as place:
            folder = Path(place)
            _cut(folder / "music", count)
            save_codec(random_codec(CODEC), folder / "codec")
            looks = list(self._watched(folder, 8 if self.quick else self.shard_tracks))
        rows = _rows(looks, count)
        print_rows(rows)
        write_csv(self.out / "many_files.csv", rows)
        _draw(rows, self.out / "many_files.png")
        grown = float(rows[-1]["all_mib"]) - float(rows[0]["all_mib"])
        print(
            f"memory grew by {grown:.1f} MiB from {rows[0]['files']} to {rows[-1]['files']} files"
        )
        print(f"time grows with files to the power of {_exponent(rows):.3f}")

    def _watched(self, folder: Path, shard_tracks: int) -> Iterator[Look]:
        """Looks at a run from beginning to end.

        Raises:
            InputError: it failed.
        """
        out = folder / "tokens"
        words = ["--codec", folder / "codec", "--out", out, "--engine", self.engine]
        words += ["--workers", self.workers, "--shard-tracks", shard_tracks]
        command = [sys.executable, "-m", "codec.tokenize", folder / "music", *words]
        started = time.monotonic()
        with subprocess.Popen([str(word) for word in command]) as process:
            while process.poll() is None:
                time.sleep(BETWEEN)
                own, together = _resident(process.pid)
                if own:
                    last = Look(time.monotonic() - started, _done(out), own, together)
                    yield last
        if process.returncode:
            raise InputError(f"codec.tokenize ended with status {process.returncode}, see above")
        yield last._replace(seconds=time.monotonic() - started, files=_done(out))


def _cut(folder: Path, count: int) -> None:
    """Write so many short files of real music."""
    size = round(SECONDS * CODEC.sample_rate)
    pieces = _pieces(blocks(count * SECONDS * 2, CODEC.sample_rate), size)
    for number, piece in enumerate(itertools.islice(pieces, count)):
        path = folder / f"{number // IN_A_FOLDER:04d}" / f"{number:07d}"
        path.parent.mkdir(parents=True, exist_ok=True)
        suffix = SUFFIXES[number % len(SUFFIXES)]
        soundfile.write(path.with_suffix(f".{suffix}"), piece, CODEC.sample_rate)


def _pieces(tracks: Iterator[np.ndarray], size: int) -> Iterator[np.ndarray]:
    """Stretches [size] of tracks; what is left at the end of each is left out."""
    for track in tracks:
        yield from track[: len(track) // size * size].reshape(-1, size)


def _resident(pid: int) -> tuple[float, float]:
    """MiB in memory: of a process, and with all below it; what they share counts for each."""
    found = []
    try:
        process = psutil.Process(pid)
        for one in (process, *process.children(recursive=True)):
            try:
                found.append(one.memory_info().rss / 2**20)
            except psutil.NoSuchProcess:
                continue
    except psutil.NoSuchProcess:
        return 0, 0
    return found[0], sum(found)


def _done(out: Path) -> int:
    """Files that a corpus has."""
    return sum(s.rows for s in read_manifest(out).shards) if (out / MANIFEST).exists() else 0


def _rows(looks: Sequence[Look], count: int) -> list[Row]:
    """A row a step: when so many files were there, and most memory since the row before."""
    first = next(look for look in looks if look.files)
    rows: list[Row] = []
    before = first
    for step in range(1, STEPS + 1):
        wanted = count * step // STEPS
        after = next((look for look in looks if look.files >= wanted), looks[-1])
        if after.files == before.files:  # a short run is over before there was a look
            continue
        during = [look for look in looks if before.seconds <= look.seconds <= after.seconds]
        before, seconds = after, after.seconds - first.seconds
        rows.append(
            {
                "files": after.files,
                "seconds": seconds,
                "files_per_second": (after.files - first.files) / seconds,
                "own_mib": max(look.own_mib for look in during),
                "all_mib": max(look.all_mib for look in during),
            }
        )
    return rows


def _exponent(rows: Sequence[Row]) -> float:
    """Slope of a straight line through logarithms of files since the first shard, and seconds."""
    seconds = np.array([float(row["seconds"]) for row in rows])
    files = seconds * [float(row["files_per_second"]) for row in rows]
    return float(np.polyfit(np.log(files), np.log(seconds), 1)[0])


def _draw(rows: Sequence[Row], path: Path) -> None:
    with figure(path, 9, 4) as drawn:
        time_panel, memory_panel = drawn.subplots(1, 2)
        curve(time_panel, [(row["files"], row["seconds"]) for row in rows], "seconds", 0)
        linear = [(row["files"], float(row["files"]) / float(rows[-1]["files"])) for row in rows]
        last = float(rows[-1]["seconds"])
        curve(time_panel, [(x, share * last) for x, share in linear], "in proportion", 1)
        for look, (column, label) in enumerate(
            (("own_mib", "the process"), ("all_mib", "and its workers"))
        ):
            curve(memory_panel, [(row["files"], row[column]) for row in rows], label, look)
        memory_panel.set_yscale("linear")
        memory_panel.set_ylim(0)
        for panel, name in ((time_panel, "seconds"), (memory_panel, "resident, MiB")):
            panel.set_xlabel("files")
            panel.set_ylabel(name)
            panel.tick_params("x", rotation=60)
            panel.legend(fontsize="small")


if __name__ == "__main__":
    ManyFiles.main()
