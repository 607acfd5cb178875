"""Files that are never half-written: everything is made beside its place and renamed into it.

And folders that one process at a time writes to. It does not know what is in the files.
"""

import contextlib
import errno
import hashlib
import json
import os
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from plugins.ground.errors import InputError

try:
    import fcntl
except ImportError:  # Windows has none: processes there must keep apart by themselves
    fcntl = None  # type: ignore[assignment]

PARTIAL = ".partial"


@contextlib.contextmanager
def published(path: Path | str) -> Iterator[Path]:
    """Give a path to write to; on success it is renamed to `path`, on failure removed.

    Another process that publishes the same path waits meanwhile, and then replaces it.

    Raises:
        InputError: the folder can't be written, or the disk is full.
    """
    path = Path(path)
    # The suffix stays last, since writers of audio go by it. The name is one for all processes, so
    # that what a killed one left is written over.
    partial = path.with_name(f".{path.stem}{PARTIAL}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _own(partial):
            yield partial
            with open(partial, "rb") as file:
                os.fsync(file.fileno())
            os.replace(partial, path)
    except Exception as error:
        reason = _disk_problem(error)
        if reason is None:
            raise
        raise InputError(f"can't write {path}: {reason}") from error


@contextlib.contextmanager
def _own(partial: Path) -> Iterator[None]:
    """Keep a file, made if missing, from other processes; it is removed if something goes wrong."""
    number = _locked(partial, os.O_RDWR | os.O_CREAT, wait=True)
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise
    finally:
        if number is not None:
            os.close(number)


def _locked(path: Path, flags: int, wait: bool) -> int | None:
    """A file or folder, open and locked until it is closed; None where that can't be done.

    Raises:
        BlockingIOError: another process has locked it, and it is not to be waited for.
        OSError: it can't be opened.
    """
    while fcntl is not None:
        number = os.open(path, flags, 0o666)
        try:
            fcntl.flock(number, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            # Who had it before may have renamed or removed it, and another is there now.
            if _place(os.fstat(number)) == _place(os.stat(path)):
                return number
            os.close(number)
        except FileNotFoundError:
            os.close(number)
        except BlockingIOError:
            os.close(number)
            raise
        except OSError:  # some network folders know no locks
            os.close(number)
            return None
    return None


def _place(found: os.stat_result) -> tuple[int, int]:
    """What no two files or folders that are there have in common."""
    return found.st_dev, found.st_ino


class FolderLock:
    """Keeps other processes from writing to a folder that this one writes to.

    It lasts until it is released, or left as a context, or forgotten, or the process ends, however
    it does: the system holds it on the open folder, so no file lies in there and none is left.
    In one process several may have the same folder. Where folders can't be locked (Windows, some
    network folders) it keeps nobody out.

    Args:
        folder: made if missing.

    Raises:
        InputError: another process writes to it, or it can't be made.
    """

    def __init__(self, folder: Path | str) -> None:
        folder = Path(folder)
        self._folder: _OpenFolder | None
        try:
            folder.mkdir(parents=True, exist_ok=True)
            held = _held.get(_place(os.stat(folder)))
            self._folder = held or _OpenFolder(_locked(folder, os.O_RDONLY, wait=False))
        except BlockingIOError as error:
            raise InputError(
                f"another process writes to {folder}: let it end first, or choose another folder"
            ) from error
        except OSError as error:
            raise InputError(f"can't use {folder} as output folder: {error.strerror}") from error

    def release(self) -> None:
        """Let other processes write to the folder, unless another lock of this one has it."""
        self._folder = None

    def __enter__(self) -> None:
        return

    def __exit__(self, *_: object) -> None:
        self.release()


class _OpenFolder:
    """A folder that is open and locked as long as somebody has this."""

    def __init__(self, number: int | None) -> None:
        if number is not None:
            self.close = weakref.finalize(self, os.close, number)
            _held[_place(os.fstat(number))] = self


_held: "weakref.WeakValueDictionary[tuple[int, int], _OpenFolder]" = weakref.WeakValueDictionary()
"""What this process has locked."""


def _forget() -> None:
    """A forked child writes to nothing of its parent's, and must not keep it when that ends."""
    for folder in list(_held.values()):
        folder.close()
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


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
        raise InputError(f"{path} is not valid JSON: {error}; mend it, or make it again") from error


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
