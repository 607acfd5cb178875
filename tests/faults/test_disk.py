"""Disks that fill up and folders that can't be written: one line, and afterwards the same bytes."""

import contextlib
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cases import WRITERS, Lab
from harness import SOAK, contents

PAGE = 4096
SPACE = 1 << 30
"""Bytes that are room enough."""


@pytest.mark.parametrize("name", WRITERS)
def test_files_that_can_not_grow(lab: Lab, tmp_path: Path, name: str) -> None:
    """A limit on the size of files stands in for a disk: writes fail half-way."""
    rng, out = random.Random(name), lab.begin(name, tmp_path / "out")
    largest = max(map(len, lab.files(name, lab.made(name)).values()))
    for _ in range(3 * SOAK):
        before = lab.files(name, out) if out.exists() else {}
        said = lab.run(name, out, file_size=int(largest * rng.uniform(0, 0.98))).error
        assert "can't write" in said or "File too large" in said
        after = lab.files(name, out) if out.exists() else {}
        assert all(len(after[file]) for file in before if file in after)
    lab.finish(name, out, 3 * SOAK)


@contextlib.contextmanager
def disk(folder: Path, size: int) -> Iterator[None]:
    """A disk of its own, of so many bytes, at a folder."""
    folder.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if subprocess.run(words, capture_output=True, check=False).returncode:
        pytest.skip("only root may mount, and not everywhere")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def pages(folder: Path) -> int:
    """Bytes that the files below a folder take up."""
    return sum(-(-len(data) // PAGE) * PAGE for data in contents(folder).values())


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk(lab: Lab, tmp_path: Path, name: str) -> None:
    rng = random.Random(name)
    for number in range(SOAK):
        mount = tmp_path / str(number)
        with disk(mount, SPACE):
            out = lab.begin(name, mount / "out")
            there = pages(mount)
            share = 0 if there else int(rng.uniform(0, 0.7) * pages(lab.made(name)))
            resize(mount, there + share + PAGE)
            said = lab.run(name, out).error
            assert "No space left on device" in said
            resize(mount, SPACE)
            lab.finish(name, out, 1)


def resize(mount: Path, size: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", str(mount)], check=True)


@pytest.mark.skipif(sys.platform != "linux", reason="root minds no modes, but on Linux can be told")
@pytest.mark.parametrize("name", WRITERS)
def test_a_folder_that_can_not_be_written(lab: Lab, tmp_path: Path, name: str) -> None:
    """From the start on, and from some moment on."""
    rng, out = random.Random(name), lab.begin(name, tmp_path / "out")
    out.mkdir(exist_ok=True)
    for number in range(3 * SOAK):
        before = contents(out)
        process = lab.start(name, out, obedient=True) if number % 3 else None
        if process:
            process.wait(rng.uniform(0, lab.seconds(name)))
        with read_only(out):
            ended = (process or lab.start(name, out, obedient=True)).end()
            assert "Permission denied" in ended.error or (process and ended.status == 0)
        if not process:
            assert contents(out) == before
    lab.finish(name, out, 3 * SOAK)


@contextlib.contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Folders in which nothing can be made, renamed or removed, of those who mind modes."""
    folders = [Path(found) for found, _, _ in os.walk(folder)]
    try:
        for one in folders:
            with contextlib.suppress(FileNotFoundError):  # a partial one was removed
                one.chmod(0o555)
        yield
    finally:
        for one in folders:
            with contextlib.suppress(FileNotFoundError):
                one.chmod(0o755)
