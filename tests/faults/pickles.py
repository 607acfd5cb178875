"""Files of `torch.save` with another pickle inside, and pickles that would run code.

It knows zip files and pickles, not who loads them.
"""

import io
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path


def repacked(data: bytes, change: Callable[[bytes], bytes]) -> bytes:
    """A zip file of `torch.save` whose pickle was changed; checksums are right again."""
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(made, "w") as new:
        for entry in old.infolist():
            content = old.read(entry)
            new.writestr(entry.filename, change(content) if is_pickle(entry.filename) else content)
    return made.getvalue()


def is_pickle(name: str) -> bool:
    """Whether a file in the zip is the pickle."""
    return name.endswith("/data.pkl")


def armed(plain: bytes, marker: Path, way: int) -> bytes:
    """A pickle that makes the file `marker` when it is loaded by `pickle`, and is `plain` then.

    Args:
        plain: a pickle of protocol 2.
        marker: the file.
        way: which of `WAYS`.
    """
    return plain[:2] + WAYS[way](str(marker)) + b"0" + plain[2:]


def _global(module: str, name: str, argument: str) -> bytes:
    """Call a function of one argument."""
    return f"c{module}\n{name}\n".encode() + _text(argument) + b"\x85R"


def _text(text: str) -> bytes:
    return b"X" + len(text.encode()).to_bytes(4, "little") + text.encode()


def _instance(marker: str) -> bytes:
    """The opcode of old-style classes."""
    return b"(" + _text(f"touch {marker}") + b"iposix\nsystem\n"


def _stack_global(marker: str) -> bytes:
    """Names from the stack, as protocol 4 has them."""
    return _text("posix") + _text("system") + b"\x93" + _text(f"touch {marker}") + b"\x85R"


def _reduced(marker: str) -> bytes:
    """By `__reduce__`, as Python itself pickles it."""

    class Toucher:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return exec, (f"open({marker!r}, 'w')",)

    return pickle.dumps(Toucher(), 2)[2:-1]


WAYS: tuple[Callable[[str], bytes], ...] = (
    lambda marker: _global("posix", "system", f"touch {marker}"),
    lambda marker: _global("builtins", "exec", f"open({marker!r}, 'w')"),
    lambda marker: _global("builtins", "eval", f"open({marker!r}, 'w')"),
    lambda marker: _global("os", "mkdir", marker),
    _instance,
    _stack_global,
    _reduced,
)
