"""What every target of hostile inputs needs: the one way to fail, and files laid out anew."""

import random
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from plugins.ground.errors import InputError

Case = Callable[[random.Random], None]


def allowed(call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """What a call returns, True for nothing; None if it refuses its input as it should."""
    try:
        found = call(*arguments, **options)
    except InputError as error:
        said = str(error)
        assert said.strip(), "an InputError that says nothing"
        assert len(said.splitlines()) == 1, f"an InputError of several lines: {said!r}"
        return None
    return True if found is None else found


def laid_out(place: Path, files: Mapping[str, bytes]) -> Path:
    """A folder that holds these files, and nothing that an earlier case left."""
    shutil.rmtree(place, ignore_errors=True)
    for name, content in files.items():
        path = place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return place


def contents(place: Path) -> dict[str, bytes]:
    """The files below a folder by relative path, to lay them out again."""
    return {str(p.relative_to(place)): p.read_bytes() for p in place.rglob("*") if p.is_file()}
