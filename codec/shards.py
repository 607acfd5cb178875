"""The files of a token corpus: manifest, Parquet shards, and copies that can be mapped.

It knows files and Arrow batches; what is in a row is `codec.rows`'s.
"""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from codec.rows import (
    CODES,
    CODES_PER_GROUP,
    CODES_PER_TRACK,
    FORMAT,
    LARGEST_TEXT,
    ROWS_PER_GROUP,
    Manifest,
    check_rows,
    schema,
)
from codec.text import is_utf8
from plugins.ground.errors import InputError, first_problem
from plugins.ground.files import PARTIAL, read_json

MANIFEST = "corpus.json"
MAPPED = ".mapped"
"""Folder of the shards in a form that can be mapped into memory; made when needed."""
IN_MEMORY = 1 << 28
"""Corpora of fewer bytes are held in memory instead."""


def read_manifest(folder: Path | str) -> Manifest:
    """`corpus.json` of a folder.

    Raises:
        InputError: there is none, it is of a newer format, or it is damaged.
    """
    path = Path(folder) / MANIFEST
    if not path.is_file():
        raise InputError(f"no token corpus in {folder}: {MANIFEST} is missing")
    content = read_json(path)
    version = content.get("format") if isinstance(content, dict) else None
    if not isinstance(version, int):
        raise InputError(f"{path} is not a token corpus's: it has no format version")
    if version > FORMAT:
        raise InputError(
            f"{folder} has corpus format {version}, newer than {FORMAT}: update jukebox-toolkit"
        )
    if not is_utf8(content):
        raise InputError(f"{path} is damaged: it holds text that is none; restore it")
    try:
        return Manifest.model_validate(content)
    except ValidationError as error:
        raise InputError(f"{path} is damaged: {first_problem(error)}") from error


class Shards:
    """The shards that a manifest lists, to read by number.

    Args:
        folder: of the corpus.
        manifest: of the moment that is read.
        held: hold all rows in memory where they are few; else `row_groups` reads as it goes.

    Raises:
        InputError: one is missing, damaged, or not what the manifest says (named).
    """

    def __init__(self, folder: Path, manifest: Manifest, held: bool = True) -> None:
        self.folder, self.manifest = folder, manifest
        self.ids: list[str] = []
        size = 0
        for number in range(len(manifest.shards)):
            with open_shard(self.path(number)) as file:
                size += self._check(number, file)
                for group in range(file.metadata.num_row_groups):
                    found = self.read_group(number, file, group, ["id"])
                    self.ids += found.column("id").to_pylist()
        self._ends = np.cumsum([shard.rows for shard in manifest.shards], dtype=np.int64)
        self.small = held and size <= IN_MEMORY
        """Whether all of it is held in memory."""
        self._loaded: dict[int, Batches] = {}
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        if self.small:  # at once, since a sampler may replace the files at any time
            for number in range(len(manifest.shards)):
                self.load(number)

    def __getstate__(self) -> dict[str, object]:
        """Without what is mapped, so that other processes map it themselves."""
        return {**vars(self), "_loaded": {}, "_temporary": None}

    def at(self, index: int) -> tuple[pa.RecordBatch, int]:
        """The batch that holds a row, and the row's number there.

        Raises:
            IndexError: there is no such row.
        """
        total = len(self.ids)
        if not -total <= index < total:
            raise IndexError(f"row {index} of {total}")
        index %= total
        number = int(np.searchsorted(self._ends, index, side="right"))
        return self.load(number).at(index - (int(self._ends[number - 1]) if number else 0))

    def path(self, number: int) -> Path:
        """Of a shard's file."""
        return self.folder / self.manifest.shards[number].file

    def row_groups(self, number: int) -> Iterator[pa.RecordBatch]:
        """The batches of a shard, read as they are asked for where they are not at hand."""
        if number in self._loaded:
            yield from self._loaded[number].parts
            return
        with open_shard(self.path(number)) as file:
            for group in range(file.metadata.num_row_groups):
                yield self.read_group(number, file, group)

    def read_group(
        self, number: int, file: pq.ParquetFile, group: int, columns: list[str] | None = None
    ) -> pa.RecordBatch:
        """One row group of a shard that is open; of these columns alone, if any are named.

        Raises:
            InputError: it holds what no writer writes.
        """
        table = file.read_row_group(group, columns=columns)
        try:
            if table.num_rows != file.metadata.row_group(group).num_rows:
                raise ValueError(f"only {table.num_rows} rows can be read of row group {group}")
            (batch,) = table.combine_chunks().to_batches()
            check_rows(batch, self.manifest.spec)
        except ValueError as error:
            raise damaged(self.path(number), str(error)) from error
        return batch

    def load(self, number: int) -> "Batches":
        """The batches of a shard, all at hand: mapped, or in memory if the corpus is small."""
        if number not in self._loaded:
            if self.small:
                parts = list(self.row_groups(number))
            else:
                columns = schema(self.manifest.spec, self.manifest.columns)
                parts = _mapped_batches(self._mapped(number), columns)
                if sum(map(len, parts)) != self.manifest.shards[number].rows:
                    raise _damaged_copy(self._mapped(number))
            self._loaded[number] = Batches(parts)
        return self._loaded[number]

    def _check(self, number: int, file: pq.ParquetFile) -> int:
        """Compare a shard's footer with the manifest and with what writers write.

        Returns:
            bytes that its rows take in memory.
        """
        shard, where = self.manifest.shards[number], self.path(number)
        groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
        rows = sum(group.num_rows for group in groups)
        if not rows == file.metadata.num_rows == shard.rows:
            raise damaged(where, f"it has {rows} rows, but {MANIFEST} says {shard.rows}")
        if not file.schema_arrow.equals(schema(self.manifest.spec, self.manifest.columns)):
            raise damaged(where, f"it has other columns than {MANIFEST} says")
        size = 0
        for place, group in enumerate(groups):
            # Makes readers of all columns, and reads nothing. It complains of a malformed footer;
            # asking for a column's figures would end the process.
            next(file.reader.iter_batches(0, [place], use_threads=False), None)
            codes, text = _contents(group)
            # Few bytes may stand for very many codes: what writers never write is not unpacked.
            most = codes <= CODES_PER_TRACK + CODES_PER_GROUP and text <= LARGEST_TEXT
            if not most or not 0 < group.num_rows <= ROWS_PER_GROUP:
                raise damaged(
                    where,
                    f"no writer puts {group.num_rows:,} rows of {codes:,} codes and {text:,} bytes "
                    "of text into one row group",
                )
            size += 2 * codes + text
        return size

    def _mapped(self, number: int) -> Path:
        """The file to map for a shard; made beside it, or where that can't be written to, in a
        temporary folder.
        """
        name = f"{self.manifest.shards[number].sha256[:32]}.arrow"
        path = self.folder / MAPPED / name
        if path.is_file():
            return path
        try:
            self._write_mapped(number, path)
        except OSError:
            self._temporary = self._temporary or tempfile.TemporaryDirectory(prefix="corpus-")
            path = Path(self._temporary.name, name)
            try:
                self._write_mapped(number, path)
            except OSError as error:
                raise InputError(f"can't write {path}: {error.strerror or error}") from error
        return path

    def _write_mapped(self, number: int, path: Path) -> None:
        path.parent.mkdir(exist_ok=True)
        # Several processes may map one corpus at a time, so each writes a file of its own.
        partial = path.with_name(f".{path.stem}{PARTIAL}.{os.getpid()}")
        try:
            columns = schema(self.manifest.spec, self.manifest.columns)
            with pa.OSFile(str(partial), "wb") as sink, pa.ipc.new_file(sink, columns) as file:
                for batch in self.row_groups(number):
                    file.write_batch(batch)
            sync(partial)
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)


def _contents(group: Any) -> tuple[int, int]:
    """How many codes a row group holds, and how many bytes beside them, by its footer."""
    columns = [group.column(i) for i in range(group.num_columns)]
    coded = [c for c in columns if c.path_in_schema.startswith(CODES)]
    rest = [c for c in columns if not c.path_in_schema.startswith(CODES)]
    return sum(c.num_values for c in coded), sum(c.total_uncompressed_size for c in rest)


def _mapped_batches(path: Path, columns: pa.Schema) -> list[pa.RecordBatch]:
    """The batches of a mapped file; codes are not read, but lie where its offsets say.

    Raises:
        InputError: it is damaged.
    """
    try:
        file = pa.ipc.open_file(pa.memory_map(str(path)))
        parts = [file.get_batch(i) for i in range(file.num_record_batches)]
        for part in parts:
            part.validate(full=True)
    except (pa.ArrowException, OSError) as error:
        raise _damaged_copy(path) from error
    if file.schema != columns:
        raise _damaged_copy(path)
    return parts


def _damaged_copy(path: Path) -> InputError:
    return InputError(f"{path} is damaged: delete it, it is made again when it is needed")


class Batches:
    """Record batches with the rows found by number."""

    def __init__(self, parts: list[pa.RecordBatch]) -> None:
        self.parts = parts
        self._ends = np.cumsum([len(part) for part in parts])

    def at(self, row: int) -> tuple[pa.RecordBatch, int]:
        """The batch that holds a row, and the row's number there."""
        number = int(np.searchsorted(self._ends, row, side="right"))
        return self.parts[number], row - (int(self._ends[number - 1]) if number else 0)


@contextlib.contextmanager
def open_shard(path: Path) -> Iterator[pq.ParquetFile]:
    """A shard, open.

    Raises:
        InputError: it is missing or damaged, then or while it is read.
    """
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            yield file
    except FileNotFoundError as error:
        raise InputError(
            f"shard {path} is missing: restore it, or leave it out by codec.verify --drop and make "
            "its tracks again"
        ) from error
    except MemoryError as error:  # where a damaged file claims much, too
        raise InputError(
            f"shard {path} takes more memory than there is ({error}): end other programs, or see "
            "what codec.verify says of it"
        ) from error
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise damaged(path, reason) from error


def damaged(path: Path, reason: str) -> InputError:
    """What is said of a shard that can't be used, and what can be done."""
    return InputError(
        f"shard {path} is damaged or cut off ({reason}): restore it, or leave it out by "
        "codec.verify --drop and make its tracks again"
    )


def sync(path: Path) -> None:
    """Wait until a file is on the disk."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
