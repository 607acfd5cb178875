"""Which audio files the user means, and what is known about them.

Finds files below folders and globs, gives each an id, and reads metadata files, text beside the
audio and tags. It does not know what is in the audio, nor what the metadata mean.
"""

import contextlib
import csv
import glob
import json
import os
import posixpath
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mutagen

from codec.text import utf8
from plugins.ground import lrc
from plugins.ground.errors import InputError
from plugins.ground.files import read_text

SUFFIXES = frozenset(
    {".wav", ".flac", ".mp3", ".ogg", ".oga", ".opus"}
    | {".aif", ".aiff", ".aifc", ".au", ".caf", ".w64", ".rf64"}
)
METADATA = ("metadata.csv", "metadata.jsonl")
FILE_NAME = "file_name"
LYRICS, TIMED = "lyrics", "lrc"
"""Columns of text that stands beside audio: without its times, and as it came with them."""
TAGS = {
    "artist": ("artist", "TPE1"),
    "genre": ("genre", "TCON"),
    "title": ("title", "TIT2"),
    "lyrics": ("lyrics", "unsyncedlyrics", "USLT"),
}
"""Names of a field in Vorbis comments and ID3, the likelier first."""

Rows = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Source:
    """One audio file."""

    file: Path
    path: str
    """Below the argument that it was found by, with slashes: the same wherever the music lies."""
    id: str
    """The path, or where two arguments give one path, something like it that is unique."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """Of metadata files, without `file_name`, and of text beside the audio."""


def find_sources(
    arguments: str | Path | Sequence[str | Path], *, lyrics: bool = True
) -> list[Source]:
    """Audio files by name, below folders (recursively, by suffix) and by globs, sorted by id.

    `metadata.jsonl` and `metadata.csv` of a file's folder, and of those between it and the
    argument, say more about it (the AudioFolder convention of `datasets`: `file_name` is relative
    to the metadata file); the nearer folder wins, and jsonl over csv. Values are as they came:
    text in csv, JSON's types in jsonl. Where they have no `lyrics`, a text file that has the
    audio's name but for its suffix does: `.lrc`, whose times stay in the column `lrc`, or `.txt`.

    Args:
        arguments: files, folders or globs; a file that several of them give counts once.
        lyrics: read text beside the audio.

    Raises:
        InputError: a named file does not exist, there is no audio at all, or a metadata or text
            file is malformed (names the line).
    """
    arguments = [arguments] if isinstance(arguments, str | Path) else arguments
    sources: list[Source] = []
    files: set[str] = set()
    ids: set[str] = set()
    for argument in arguments:
        root, found = _expand(argument)
        tables: dict[Path, Rows] = {}
        for file in found:
            absolute = os.path.abspath(file)
            if absolute in files:
                continue
            files.add(absolute)
            path = utf8(file.relative_to(root).as_posix())
            name = _unique(path, root, ids)
            ids.add(name)
            metadata = _metadata(file, root, tables)
            if lyrics and not metadata.get(LYRICS):
                metadata |= _text_beside(file)
            sources.append(Source(file, path, name, metadata))
    if not sources:
        shown = ", ".join(map(str, arguments)) or "no arguments"
        raise InputError(f"no audio files in {shown}; known suffixes: {' '.join(sorted(SUFFIXES))}")
    return sorted(sources, key=lambda source: source.id)


def read_tags(path: Path | str) -> dict[str, str]:
    """Artist, genre, title and lyrics from a file's tags; "" for what is unknown or broken.

    Lyrics with times, all of them as in an `.lrc` file, are given without and as they are; where
    only some lines have times, without alone.
    """
    found = dict.fromkeys(TAGS, "")
    try:
        tagged = mutagen.File(path)
        tags = {} if tagged is None or tagged.tags is None else tagged.tags
    except Exception:  # mutagen raises many types; a broken tag is no reason to lose the music
        return found
    for name, keys in TAGS.items():
        with contextlib.suppress(Exception):
            found[name] = next(filter(None, (_tag(tags, key) for key in keys)), "")
    timed: dict[str, str] = {}
    with contextlib.suppress(InputError):  # lyrics without times, as most are
        timed = _timed(found[LYRICS], "tag")
    return found | (timed or {LYRICS: lrc.without_times(found[LYRICS])})


def _text_beside(file: Path) -> dict[str, str]:
    """What text files of the audio's name hold; nothing if there is none, or no word in it."""
    for suffix, read in ((".lrc", _timed), (".txt", _plain)):
        for path in (file.with_suffix(suffix), file.with_suffix(suffix.upper())):
            if path.is_file() and (found := read(read_text(path), str(path))):
                return found
    return {}


def _plain(text: str, name: str) -> dict[str, str]:
    return {LYRICS: text} if text.strip() else {}


def _timed(text: str, name: str) -> dict[str, str]:
    """Text with times: without them, and as it is.

    Raises:
        InputError: it is malformed; names the line.
    """
    plain = lrc.plain_text(lrc.parse_lrc(text, name))
    return {LYRICS: plain, TIMED: text} if plain else {}


def _tag(tags: Any, key: str) -> str:
    """One tag's text; several values are joined."""
    if hasattr(tags, "getall"):  # ID3: frames by their four letters
        frames = tags.getall(key) if key.isupper() else []
        # Genre frames may hold numbers of a fixed list, which `genres` spells out.
        values = [getattr(frame, "genres", None) or frame.text for frame in frames]
    else:
        values = [] if key.isupper() else [tags.get(key, [])]
    texts = [str(text).strip() for value in values for text in _listed(value)]
    return utf8("; ".join(filter(None, texts)))


def _listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else list(value)


def _unique(path: str, root: Path, ids: set[str]) -> str:
    """The path, with the argument's name ahead if it is taken, then with a number."""
    if path not in ids:
        return path
    longer = utf8(f"{root.resolve().name}/{path}")
    name, count = longer, 2
    while name in ids:
        name, count = f"{longer}#{count}", count + 1
    return name


def _expand(argument: str | Path) -> tuple[Path, list[Path]]:
    """The folder that an argument's paths are relative to, and its audio files."""
    path = Path(argument)
    if path.is_dir():
        return path, sorted(_below(path))
    if path.is_file():
        return path.parent, [path]
    if not glob.has_magic(str(argument)):
        raise InputError(f"no such file or folder: {argument}")
    parts = path.parts
    fixed = next(i for i, part in enumerate(parts) if glob.has_magic(part))
    found: set[Path] = set()
    for name in glob.iglob(str(argument), recursive=True):
        match = Path(name)
        if match.is_dir():
            found.update(_below(match))
        elif match.suffix.lower() in SUFFIXES and match.is_file():
            found.add(match)
    return Path(*parts[:fixed]), sorted(found)


def _below(folder: Path) -> Iterator[Path]:
    """Audio files below a folder; hidden ones are left out, and each folder is visited once."""
    visited: set[str] = set()
    for here, folders, names in os.walk(folder, followlinks=True):
        place = os.path.realpath(here)
        if place in visited:
            folders.clear()
            continue
        visited.add(place)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in names:
            if not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES:
                yield Path(here, name)


def _metadata(file: Path, root: Path, tables: dict[Path, Rows]) -> dict[str, Any]:
    """What the metadata files between `root` and a file say about it; `tables` are those read."""
    found: dict[str, Any] = {}
    below = file.relative_to(root)
    for folder in reversed([root / parent for parent in below.parents]):
        if folder not in tables:
            tables[folder] = {}
            for name in METADATA:
                if (folder / name).is_file():
                    read = _read_csv if name.endswith("csv") else _read_jsonl
                    tables[folder].update(_by_file(folder / name, read))
        found |= tables[folder].get(_key(file.relative_to(folder).as_posix()), {})
    return found


def _by_file(path: Path, read: Any) -> Rows:
    """The rows of a metadata file by the file that they are about.

    Raises:
        InputError: names the line that is malformed.
    """
    rows: Rows = {}
    try:
        with open(path, encoding="utf-8-sig", newline="") as lines:
            for number, row in read(path, lines):
                name = row.pop(FILE_NAME, None)
                if not isinstance(name, str) or not name:
                    raise InputError(f"{path} line {number}: {FILE_NAME} is missing")
                rows[_key(name)] = {utf8(k): v for k, v in row.items() if v is not None}
    except OSError as error:
        raise InputError(f"can't read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text: {error}") from error
    return rows


def _key(name: str) -> str:
    """A relative path as it is looked up: file systems and editors differ in how they spell it."""
    return unicodedata.normalize("NFC", posixpath.normpath(utf8(name).replace("\\", "/")))


def _read_jsonl(path: Path, lines: Iterator[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path} line {number}: not JSON ({error})") from error
        if not isinstance(row, dict):
            raise InputError(f"{path} line {number}: not a JSON object")
        yield number, row


def _read_csv(path: Path, lines: Iterator[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    rows = csv.DictReader(lines, strict=True)
    try:
        for row in rows:
            if None in row or None in row.values():
                raise InputError(
                    f"{path} line {rows.line_num}: not {len(rows.fieldnames or ())} fields "
                    "as the first line has"
                )
            yield rows.line_num, dict(row)
    except csv.Error as error:
        # An open quote shows at the end of the file only: name the line where the row began.
        raise InputError(f"{path} line {rows.line_num + 1}: {error}") from error
