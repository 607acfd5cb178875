"""Files that are never half-written: everything is made beside its place and renamed into it.

It does not know what is in the files.
"""

import contextlib
import errno
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from plugins.ground.errors import InputError

PARTIAL = ".partial"


@contextlib.contextmanager
def published(path: Path | str) -> Iterator[Path]:
    """Give a path to write to; on success it is renamed to `path`, on failure removed.

    Raises:
        InputError: the folder can't be written, or the disk is full.
    """
    path = Path(path)
    # The suffix stays last, since writers of audio go by it.
    partial = path.with_name(f".{path.stem}{PARTIAL}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        with open(partial, "rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    except Exception as error:
        reason = _disk_problem(error)
        if reason is None:
            raise
        raise InputError(f"can't write {path}: {reason}") from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def _disk_problem(error: BaseException | None) -> str | None:
    """What the operating system said, also where a library wraps it; None for other errors."""
    if error is None:
        return None
    if isinstance(error, OSError):
        return error.strerror or str(error)
    full = (os.strerror(code) for code in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT))
    said = next((text for text in full if text in str(error)), None)
    return said or _disk_problem(error.__context__)


def write_json(path: Path | str, content: Any) -> None:
    """Publish `content` as indented JSON."""
    with published(path) as partial:
        partial.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", "utf-8")


def read_text(path: Path | str) -> str:
    """Read a text file in UTF-8, with or without a byte order mark.

    Raises:
        InputError: it can't be read, or is something else.
    """
    try:
        return Path(path).read_text("utf-8-sig")
    except OSError as error:
        raise InputError(f"can't read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8: save it as plain UTF-8 text") from error


def read_json(path: Path | str) -> Any:
    """Read a JSON file.

    Raises:
        InputError: it is missing or is not JSON.
    """
    text = read_text(path)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not valid JSON: {error}") from error


def sha256_of(path: Path | str) -> str:
    """SHA-256 of a file's bytes, in hexadecimal.

    Raises:
        InputError: it can't be read.
    """
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise InputError(f"can't read {path}: {error.strerror}") from error
    return digest.hexdigest()


def claim_folder(folder: Path | str, marker: str, what: str) -> Path:
    """Make `folder`, or take it up if it holds `marker` or nothing; refuse anything else.

    Raises:
        InputError: it is a file, can't be made, or holds something other than `what`.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        names = {path.name for path in folder.iterdir()}
    except OSError as error:
        raise InputError(f"can't use {folder} as output folder: {error.strerror}") from error
    leftovers = {name for name in names if PARTIAL in name}
    if names - leftovers and marker not in names:
        raise InputError(f"{folder} holds something other than {what}; choose an empty folder")
    return folder
