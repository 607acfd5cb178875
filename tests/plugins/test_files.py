import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from plugins.ground.errors import InputError
from plugins.ground.files import (
    FolderLock,
    claim_folder,
    published,
    read_json,
    sha256_of,
    write_json,
)

LOCK = """
import os, sys
from plugins.ground.files import FolderLock
lock = FolderLock(sys.argv[1])
"""
HOLD = "print('held', flush=True)\nsys.stdin.read()\n"


@contextlib.contextmanager
def another(folder: Path, program: str = LOCK + HOLD) -> Iterator["subprocess.Popen[str]"]:
    """A process that has locked a folder."""
    words = [sys.executable, "-c", program, str(folder)]
    pipe = subprocess.PIPE
    with subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "held\n", process.communicate()
        yield process


def is_free(folder: Path) -> bool:
    """Whether another process can lock it."""
    words = [sys.executable, "-c", LOCK, str(folder)]
    run = subprocess.run(words, capture_output=True, text=True, check=False)
    assert run.returncode == 0 or "another process writes to" in run.stderr, run.stderr
    return run.returncode == 0


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"x": 1})

    def interrupted() -> None:
        with published(path) as partial:
            partial.write_text("half")
            raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError, match="interrupted"):
        interrupted()
    assert read_json(path) == {"x": 1}
    assert os.listdir(tmp_path) == ["a.json"]


def test_a_writer_that_is_killed_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, [1])
    program = (
        "import os, sys\nfrom plugins.ground.files import published\n"
        "with published(sys.argv[1]) as partial:\n"
        "    partial.write_text('half'); os.kill(os.getpid(), 9)"
    )
    status = subprocess.run([sys.executable, "-c", program, str(path)], check=False).returncode
    assert status == -9
    assert json.loads(path.read_text()) == [1]
    assert claim_folder(tmp_path, "a.json", "lists") == tmp_path


def test_a_full_disk_is_one_clear_error(tmp_path: Path) -> None:
    """A limit on the size of files stands in for the disk: the same write fails half-way."""
    path = tmp_path / "a.bin"
    path.write_bytes(b"good")
    program = (
        "import resource, signal, sys\n"
        "from plugins.ground.errors import InputError\n"
        "from plugins.ground.files import published\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try:\n"
        "    with published(sys.argv[1]) as partial: partial.write_bytes(bytes(5000))\n"
        "except InputError as error: sys.exit(str(error))"
    )
    run = subprocess.run(
        [sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=False
    )
    assert run.stderr.strip() == f"can't write {path}: File too large"
    assert path.read_bytes() == b"good"
    assert os.listdir(tmp_path) == ["a.bin"]


def test_folders_that_hold_something_else_are_refused(tmp_path: Path) -> None:
    assert claim_folder(tmp_path / "new" / "one", "m.json", "models").is_dir()
    (tmp_path / "new" / "one" / "m.json").write_text("{}")
    claim_folder(tmp_path / "new" / "one", "m.json", "models")
    with pytest.raises(InputError, match="holds something other than models"):
        claim_folder(tmp_path / "new", "m.json", "models")
    file = tmp_path / "file"
    file.write_text("x")
    with pytest.raises(InputError, match="can't use"):
        claim_folder(file, "m.json", "models")


def test_bad_json_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with pytest.raises(InputError, match=r"can't read .*a\.json"):
        read_json(path)
    path.write_text("{")
    with pytest.raises(InputError, match=r"a\.json is not valid JSON"):
        read_json(path)


def test_sha256(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    # the published test vector of FIPS 180
    assert sha256_of(tmp_path / "a").startswith("ba7816bf8f01cfea")


# Folders of one process at a time


def test_a_folder_that_another_process_writes_to_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    with another(folder) as process:
        with pytest.raises(InputError) as caught:
            FolderLock(folder)
        assert str(caught.value) == (
            f"another process writes to {folder}: let it end first, or choose another folder"
        )
        with FolderLock(tmp_path / "other"):
            process.kill()
            process.wait()
        FolderLock(folder)
    assert not os.listdir(folder)


def test_a_folder_is_free_when_its_last_lock_is(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    with FolderLock(tmp_path):
        other = FolderLock(tmp_path / "link")
        assert not is_free(tmp_path)
    assert not is_free(tmp_path)
    other.release()
    other.release()
    assert is_free(tmp_path)


def test_a_lock_that_nobody_has_any_more_keeps_nobody_out(tmp_path: Path) -> None:
    lock = FolderLock(tmp_path)
    assert not is_free(tmp_path)
    del lock
    assert is_free(tmp_path)


def test_forked_children_do_not_keep_a_folder(tmp_path: Path) -> None:
    """As those that prepare batches, which may live longer than a parent that was killed."""
    fork = "if os.fork():\n    os._exit(0)\n"
    with another(tmp_path, LOCK + fork + HOLD) as parent:
        assert parent.wait() == 0
        assert is_free(tmp_path)


def test_a_forked_child_is_another_process(tmp_path: Path) -> None:
    fork = "if not os.fork():\n    FolderLock(sys.argv[1])\n    os._exit(0)\nos.wait()\n"
    with another(tmp_path, LOCK + fork + HOLD) as parent:
        _, said = parent.communicate()
    assert "another process writes to" in said


def test_a_folder_that_was_made_again_is_another_one(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    with FolderLock(folder):
        folder.rmdir()
        with another(folder), pytest.raises(InputError, match="another process writes to"):
            FolderLock(folder)


def test_what_two_processes_publish_is_not_mixed(tmp_path: Path) -> None:
    program = (
        "import sys, time\nfrom plugins.ground.files import published\n"
        "for _ in range(40):\n"
        "    with published(sys.argv[1]) as partial, open(partial, 'wb', buffering=0) as file:\n"
        "        for _ in range(8):\n"
        "            file.write(sys.argv[2].encode() * 1000); time.sleep(0.0005)"
    )
    path = tmp_path / "a.bin"
    words = [[sys.executable, "-c", program, str(path), letter] for letter in "ab"]
    seen: set[bytes] = set()
    with contextlib.ExitStack() as stack:
        both = [stack.enter_context(subprocess.Popen(one)) for one in words]
        while any(process.poll() is None for process in both):
            with contextlib.suppress(FileNotFoundError):
                seen.add(path.read_bytes())
    assert [process.returncode for process in both] == [0, 0]
    assert seen == {b"a" * 8000, b"b" * 8000}
    assert os.listdir(tmp_path) == ["a.bin"]
