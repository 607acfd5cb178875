"""C++ of this toolkit, compiled for this machine when it is first needed. It knows no functions.

A native module makes something faster that PyTorch can do too, with the same numbers up to
rounding. It is never needed: where there is no compiler, `load` says so once, and whoever asked
takes the other road. What was compiled is kept in `~/.cache/jukebox-toolkit` (or under
`XDG_CACHE_HOME`), for each source, compiler and processor apart.

`JUKEBOX_NATIVE=0` keeps all native modules away.
"""

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import warnings
from pathlib import Path

HEADER = Path(__file__).with_name("native.h")
COMPILERS = ("c++", "g++", "clang++")
FLAGS = ("-O3", "-std=c++17", "-shared", "-fPIC", "-pthread", "-fno-math-errno", "-Wno-psabi")
SWITCH = "JUKEBOX_NATIVE"


MISSING = "there is no C++ to call (no compiler, or switched off)"
"""Why whoever asked goes without, once `load` gave None."""


class NativeError(Exception):
    """Why there is no native module here."""


@functools.cache
def load(source: Path) -> ctypes.CDLL | None:
    """The library made of a C++ file, or None with a warning that says why there is none.

    Args:
        source: it may include `native.h`, and headers beside it.
    """
    if os.environ.get(SWITCH) == "0":
        return None
    try:
        return _loaded(source)
    except NativeError as error:
        warnings.warn(f"going on without native code, slower: {error}", stacklevel=3)
        return None


def _loaded(source: Path) -> ctypes.CDLL:
    compiler = _compiler()
    flags = [*FLAGS, *_for_this_processor(), f"-I{HEADER.parent}"]
    name = f"{source.parent.name}-{source.stem}-{_key(source, compiler, flags)}.so"
    for folder in (cache_folder(), Path(tempfile.gettempdir()) / f"jukebox-toolkit-{_user()}"):
        try:
            return ctypes.CDLL(str(_built(source, compiler, flags, folder / name)))
        except OSError as error:  # a folder that can't be written, or may not hold programs
            reason = error
    raise NativeError(f"can't keep what was compiled: {reason}")


def _built(source: Path, compiler: str, flags: list[str], library: Path) -> Path:
    """The library at its place; made beside it and renamed, since others may be making it too."""
    library.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if library.parent.stat().st_uid != _user():
        raise PermissionError(f"{library.parent} belongs to somebody else")
    if library.exists():
        return library
    with tempfile.TemporaryDirectory(dir=library.parent) as work:
        made = Path(work) / library.name
        command = [compiler, *flags, str(source), "-o", str(made)]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace")
        if done.returncode:
            first = next((x for x in done.stderr.splitlines() if "error" in x), "it does not say")
            raise NativeError(f"{compiler} could not compile {source.name}: {first}")
        os.replace(made, library)
    return library


def _compiler() -> str:
    named = os.environ.get("CXX")
    for name in (named,) if named else COMPILERS:
        if found := shutil.which(name):
            return found
    raise NativeError(f"no C++ compiler ({named or ', '.join(COMPILERS)})")


def _for_this_processor() -> tuple[str, ...]:
    return ("-mcpu=native",) if platform.machine() in ("arm64", "aarch64") else ("-march=native",)


def _key(source: Path, compiler: str, flags: list[str]) -> str:
    """Changes with whatever the machine code depends on."""
    version = subprocess.run([compiler, "--version"], capture_output=True).stdout
    files = [path.read_bytes() for path in (source, HEADER, *sorted(source.parent.glob("*.h")))]
    key = hashlib.sha256()
    for part in (*files, version, _processor().encode(), repr(flags).encode()):
        key.update(len(part).to_bytes(8, "little") + part)
    return key.hexdigest()[:16]


def _processor() -> str:
    """What the processor can do, for caches that several machines share."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    told = ("flags", "Features", "model name", "cpu family", "CPU part")
    return "\n".join(dict.fromkeys(line for line in lines if line.startswith(told)))


def cache_folder() -> Path:
    """Where this toolkit keeps what it can make again."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(base) / "jukebox-toolkit"


def _user() -> int:
    return os.getuid() if hasattr(os, "getuid") else 0
