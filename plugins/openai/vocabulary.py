"""Names of published labels: from lists that the user has, since they are no part of this project.

It knows where lists lie and how they are written, not what a label does.
"""

import importlib.metadata
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from conditioning.labels import names_by_number
from plugins.ground.errors import InputError
from plugins.ground.files import read_text

DISTRIBUTION = "jukebox-infer"
"""Ships the lists; it is looked into, never imported."""


class Vocabularies:
    """The lists of names that are at hand.

    Args:
        folder: holds `v2_artist_ids.txt`, `v2_genre_ids.txt`, `v3_artist_ids.txt` and
            `v3_genre_ids.txt`, or those of them that are needed; lines are `name;number`. Unless
            given, `DISTRIBUTION` is looked into if it is installed; else there are no names.

    Raises:
        InputError: there is no such folder.
    """

    def __init__(self, folder: Path | str | None = None) -> None:
        self.folder = None if folder is None else Path(folder)
        if self.folder is not None and not self.folder.is_dir():
            raise InputError(f"{self.folder} is no folder of label lists (--labels)")

    def settings(self, rule: str, what: str, rows: int) -> dict[str, Any]:
        """`names` and `named` of a label conditioner's config.

        Args:
            rule: "v2" or "v3".
            what: "artist" or "genre".
            rows: of its table.

        Raises:
            InputError: the user's list is missing, damaged, or not of that table.
        """
        name = f"{rule}_{what}_ids.txt"
        path = _installed(name) if self.folder is None else self.folder / name
        if path is None:
            return {"names": names_by_number([], rows), "named": False}
        try:
            return {"names": names_by_number(list(_read(path)), rows), "named": True}
        except InputError as error:
            reason = f"{path}: {error}" if str(path) not in str(error) else str(error)
            if self.folder is not None:
                raise InputError(reason) from error
            warnings.warn(f"numbers instead of {what} names, since {reason}", stacklevel=2)
            return {"names": names_by_number([], rows), "named": False}


def _installed(name: str) -> Path | None:
    """A file of `DISTRIBUTION`, if that is installed and has it."""
    try:
        files = importlib.metadata.files(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    paths = (Path(str(file.locate())) for file in files if file.name == name)
    return next((path for path in paths if path.is_file()), None)


def _read(path: Path) -> Iterator[tuple[str, int]]:
    """Names and numbers of a list."""
    for place, line in enumerate(read_text(path).split("\n"), start=1):
        name, _, number = line.rpartition(";")
        if number.strip().isdecimal():
            yield name, int(number)
        elif line.strip():
            raise InputError(f"{path}, line {place}: {line[:40]!r} is not NAME;NUMBER")
