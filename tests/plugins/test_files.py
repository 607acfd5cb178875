import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from plugins.ground.errors import InputError
from plugins.ground.files import claim_folder, published, read_json, sha256_of, write_json


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
