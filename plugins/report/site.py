"""The folder of a page: names for its files, addresses relative to it, copies of audio.

Or the page is the only file, and holds all the others. It knows files, not what the page shows.
"""

import base64
import filecmp
import os
import re
import shutil
import tempfile
import unicodedata
from pathlib import Path
from urllib.parse import quote

from plugins.ground.errors import InputError
from plugins.ground.files import published

PICTURES, COPIES = "pictures", "media"
GENERATOR = '<meta name="generator" content="jukebox report">'
KINDS = {".png": "image/png", ".wav": "audio/wav", ".flac": "audio/flac", ".mp3": "audio/mpeg"}
KINDS |= {".ogg": "audio/ogg", ".oga": "audio/ogg", ".opus": "audio/ogg"}


class Site:
    """Where a page is made.

    Args:
        page: the .html file; everything that it needs ends up in or below its folder.
        one_file: everything that it needs ends up in the file itself.

    Raises:
        InputError: it is not an .html file, or somebody else's page.
    """

    def __init__(self, page: Path | str, one_file: bool = False) -> None:
        self.page = Path(page)
        if self.page.suffix.lower() not in {".html", ".htm"} or self.page.is_dir():
            raise InputError(f"can't write a page to {page}: give an .html file, as out/index.html")
        self.one_file = one_file
        self._scratch = tempfile.TemporaryDirectory() if one_file else None
        self.folder = Path(self._scratch.name) if self._scratch else self.page.parent
        self._names: set[str] = set()
        self._copies: dict[Path, str] = {}
        try:
            ours = not self.page.exists() or GENERATOR in self.page.read_text("utf-8", "replace")
        except OSError as error:
            raise InputError(f"can't read {page}: {error.strerror}") from error
        if not ours:
            raise InputError(f"{page} is not a page of this command; choose another --out")

    def name(self, *parts: str) -> str:
        """A name for a file or a section, like `parts` and given out only once."""
        plain = unicodedata.normalize("NFKD", "-".join(parts)).encode("ascii", "ignore").decode()
        slug = re.sub(r"[^a-z0-9]+", "-", plain.lower()).strip("-")[:80] or "item"
        name, number = slug, 1
        while name in self._names:
            number += 1
            name = f"{slug}-{number}"
        self._names.add(name)
        return name

    def picture(self, *parts: str) -> Path:
        """Path of a new picture."""
        return self.folder / PICTURES / f"{self.name(*parts)}.png"

    def address(self, file: Path) -> str:
        """Address of a file for the page; one that lies elsewhere is copied below its folder.

        In a page that is the only file, the address holds the file.

        Raises:
            InputError: it can't be read, or the copy can't be written.
        """
        if self._scratch:
            return _held(file)
        source, root = file.resolve(), self.folder.resolve()
        if source.is_relative_to(root):
            return quote(os.fsencode(source.relative_to(root).as_posix()))
        if source not in self._copies:
            self._copies[source] = f"{COPIES}/{self.name(file.stem)}{file.suffix.lower()}"
            _copy(source, self.folder / self._copies[source])
        return quote(self._copies[source])

    def publish(self, html: str) -> None:
        """Write the page itself, last, so that all it names is there."""
        with published(self.page) as partial:
            partial.write_text(html, "utf-8")


def _held(file: Path) -> str:
    """An address that holds a file (RFC 2397)."""
    try:
        content = base64.b64encode(file.read_bytes()).decode("ascii")
    except OSError as error:
        raise InputError(f"can't read {file}: {error.strerror}") from error
    kind = KINDS.get(file.suffix.lower(), "application/octet-stream")
    return f"data:{kind};base64,{content}"


def _copy(source: Path, target: Path) -> None:
    try:
        if target.is_file() and filecmp.cmp(source, target, shallow=False):
            return
        with published(target) as partial:
            shutil.copyfile(source, partial)
    except OSError as error:
        raise InputError(f"can't copy {source} to {target}: {error.strerror}") from error
