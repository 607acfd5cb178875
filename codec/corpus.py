"""Token corpora: a folder with `corpus.json` and Parquet shards, a row a track.

It knows rows and files, not where codes come from or what they are used for. `corpus.json` is
what counts: a shard that it does not list is not there. So every change is one rename of it, and
a writer that is killed at any moment leaves a corpus that is whole.
"""

import contextlib
import functools
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from codec.groups import Groups
from codec.rows import (
    CODES,
    ColumnType,
    Manifest,
    Row,
    Shard,
    Skipped,
    batches,
    column_types,
    read_row,
    schema,
    unify,
)
from codec.shards import MANIFEST, MAPPED, Shards, read_manifest, sync
from codec.tokens import TokenSpec
from codec.verifying import Inspection
from plugins.ground.errors import InputError
from plugins.ground.files import PARTIAL, FolderLock, claim_folder, sha256_of, write_json


class Corpus:
    """A token corpus, to read.

    Rows are dictionaries: `id`, `path`, `audio_sha256`, `num_samples`, `artist`, `genre`,
    `title`, `lyrics`, `codes_<stream>` [N] uint16, `words` (each with start, end and text) and
    the further metadata columns, None where a track lacks one. Random access maps files into
    memory, so a corpus may be larger than that; for this a large corpus is written once more beside
    its shards, uncompressed. Streaming does without: rows are read with those that lie beside them,
    so going from row to row at random is slow.

    Args:
        folder: that holds `corpus.json`.
        streaming: read from the shards, where they are too large to be held in memory.

    Raises:
        InputError: no corpus, one of a newer format, two tracks of one id, or a shard that is
            missing or damaged (named).
    """

    def __init__(self, folder: Path | str, streaming: bool = False) -> None:
        self.folder = Path(folder)
        self.manifest, self._shards = _opened(self.folder)
        self._streaming = streaming and not self._shards.small
        self._ids = self._shards.ids
        if len(set(self._ids)) < len(self._ids):
            twice = next(name for name in self._ids if self._ids.count(name) > 1)
            raise InputError(f"{self.folder} holds two tracks of id {twice!r}")

    @property
    def spec(self) -> TokenSpec:
        """Of the codec that made the codes."""
        return self.manifest.spec

    @property
    def settings(self) -> dict[str, Any]:
        """What made the corpus."""
        return self.manifest.settings

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        """Inputs that could not be used, and why."""
        return self.manifest.skipped

    @property
    def fingerprint(self) -> str:
        """Name of the tracks that it holds now: of the codec's and all shards' checksums.

        Times of words don't change it, so that work on the tracks goes on when they come.
        """
        shards = self.manifest.shards
        return _name_of(self.spec.fingerprint, *(s.content or s.sha256 for s in shards))

    @property
    def words_fingerprint(self) -> str:
        """Name of the times that words have now; "" if none came since the tracks were written."""
        shards = self.manifest.shards
        return _name_of(*(s.sha256 for s in shards)) if any(s.content for s in shards) else ""

    def __len__(self) -> int:
        """Tracks."""
        return len(self._ids)

    def __getitem__(self, index: int) -> Row:
        """One row; codes are read-only views of mapped memory, so slicing them is cheap."""
        return read_row(*self._at(index))

    def _at(self, index: int, codes: bool = True) -> tuple[pa.RecordBatch, int]:
        return self.groups.at(index, codes) if self._streaming else self._shards.at(index)

    @functools.cached_property
    def groups(self) -> Groups:
        """Its row groups, to read those rows together that lie together."""
        return Groups(self._shards)

    def ids(self) -> list[str]:
        """The tracks' ids, in order."""
        return list(self._ids)

    def metadata(self, index: int) -> Row:
        """One row without its codes."""
        return read_row(*self._at(index, codes=False), codes=False)

    def codes(self, index: int, stream: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Codes `[start, stop)` of one track, a read-only view [N] uint16.

        Raises:
            InputError: no such stream.
        """
        batch, row = self._at(index)
        codes = batch.column(CODES + self.spec.stream(stream).name)[row].values
        return codes.to_numpy()[start:stop]

    def lengths(self, stream: str, tracks: Sequence[int] | None = None) -> np.ndarray:
        """How many codes of a stream each track has, [tracks] int64.

        Args:
            stream: its name.
            tracks: of these alone; of all unless given.

        Raises:
            InputError: no such stream.
        """
        if self._streaming:
            some = range(len(self)) if tracks is None else tracks
            return np.array([len(self.codes(track, stream)) for track in some], np.int64)
        name = CODES + self.spec.stream(stream).name
        shards = range(len(self.manifest.shards))
        counts = [
            pc.list_value_length(batch.column(name)).to_numpy()
            for shard in shards
            for batch in self._shards.load(shard).parts
        ]
        found = np.concatenate([np.zeros(0, np.int64), *counts]).astype(np.int64)
        return found if tracks is None else found[list(tracks)]

    def tracks(self) -> Iterator[Row]:
        """All rows in order, read from the shards as it goes; holds one row group at a time."""
        for number in range(len(self.manifest.shards)):
            yield from self.shard_rows(number)

    def shard_rows(self, shard: int) -> Iterator[Row]:
        """The rows of one shard in order; holds one row group at a time."""
        for batch in self._shards.row_groups(shard):
            for row in range(len(batch)):
                yield read_row(batch, row)

    def verify(self) -> None:
        """Look at every shard to its last code, as `codec.verify` does.

        Raises:
            InputError: names the first that is damaged.
        """
        for reason in filter(None, Inspection(self.folder, self.manifest).reasons()):
            raise InputError(reason)


def _name_of(*checksums: str) -> str:
    return hashlib.sha256("".join(checksums).encode()).hexdigest()[:16]


def _opened(folder: Path) -> tuple[Manifest, Shards]:
    """Manifest and shards of one moment, also while a sampler replaces them."""
    while True:
        manifest = read_manifest(folder)
        try:
            return manifest, Shards(folder, manifest)
        except InputError:
            if read_manifest(folder) == manifest:
                raise


class CorpusWriter:
    """A token corpus, to write; goes on with one that is there.

    Other processes are kept from writing to it until `lock` is released or nobody has the writer.

    Args:
        folder: made if missing.
        spec: of the codec that made the codes.
        settings: what makes the corpus, JSON types; tracks of other settings are not mixed in.
        columns: types of the further metadata columns of all rows to come (`column_types`).

    Raises:
        InputError: the folder holds something else, a damaged corpus, or one of another spec or
            other settings (says what differs); another process writes to it.
    """

    def __init__(
        self,
        folder: Path | str,
        spec: TokenSpec,
        settings: Mapping[str, Any] | None = None,
        columns: Mapping[str, ColumnType] | None = None,
    ) -> None:
        self.lock = FolderLock(folder)
        self.folder = claim_folder(folder, MANIFEST, "a token corpus")
        plain: dict[str, Any] = json.loads(json.dumps(settings or {}))
        if (self.folder / MANIFEST).exists():
            corpus = Corpus(self.folder)
            spec.require(corpus.spec, "what is to be added", str(self.folder))
            _require_settings(plain, corpus.settings, self.folder)
            self.manifest = corpus.manifest
            self._ids = dict.fromkeys(corpus.ids())
            self._remove_orphans()
            self._widen(corpus, columns or {})
        else:
            self.manifest = Manifest(spec=spec, settings=plain, columns=dict(columns or {}))
            self._ids = {}
            write_json(self.folder / MANIFEST, self.manifest.model_dump(mode="json"))

    @property
    def spec(self) -> TokenSpec:
        """Of the codec that made the codes."""
        return self.manifest.spec

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        """Inputs that could not be used, and why."""
        return self.manifest.skipped

    def __len__(self) -> int:
        """Tracks."""
        return len(self._ids)

    def ids(self) -> list[str]:
        """The tracks' ids, in order."""
        return list(self._ids)

    def append(self, rows: Iterable[Mapping[str, Any]], skipped: Sequence[Skipped] = ()) -> None:
        """Publish rows as one more shard, and what was skipped beside them; both or neither.

        Args:
            rows: as `Corpus` gives them; what is missing is unknown or empty. An iterator is
                drawn from as the shard is written, so that long tracks need not be held together.
            skipped: looked at once `rows` has ended; replaces older entries of the same ids, and
                rows do so too.

        Raises:
            InputError: an id that is there already, a row that does not fit the spec or the
                columns, or a disk that is full; the corpus is then as it was.
        """
        added: dict[str, None] = {}
        fresh = self._fresh(rows, self._ids, added)
        shard = self._publish(len(self.manifest.shards), fresh, self.manifest.columns)
        again = {*added, *(entry.path for entry in skipped)}
        kept = (entry for entry in self.manifest.skipped if entry.path not in again)
        self._commit(shards=(*self.manifest.shards, *shard), skipped=(*kept, *skipped))
        self._ids |= added

    def replace(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Publish these rows in place of all that are there; columns grow as needed.

        Raises:
            InputError: as `append`; the corpus is then as it was.
        """
        own = set(schema(self.spec, {}).names)
        further = ({k: v for k, v in row.items() if k not in own} for row in rows)
        columns = column_types(further, self.manifest.columns)
        ids: dict[str, None] = {}
        shard = self._publish(0, self._fresh(rows, {}, ids), columns)
        self._commit(shards=tuple(shard), columns=columns)
        self._ids = ids

    def set_words(self, number: int, words: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
        """Publish one shard anew, with words of some of its tracks.

        Holds one row group at a time.

        Args:
            number: of the shard.
            words: by track id, each with start and end in seconds and text.

        Raises:
            InputError: as `append`; the corpus is then as it was.
        """
        rows = Corpus(self.folder).shard_rows(number)
        updated = ({**row, "words": words.get(row["id"], row["words"])} for row in rows)
        shards = list(self.manifest.shards)
        content = shards[number].content or shards[number].sha256
        (shard,) = self._publish(number, updated, self.manifest.columns)
        shards[number] = shard.model_copy(update={"content": content})
        self._commit(shards=tuple(shards))

    def abandon(self) -> None:
        """Remove a corpus that holds no track; one that holds any is left."""
        if not self.manifest.shards:
            (self.folder / MANIFEST).unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # something else may lie there
                self.folder.rmdir()

    def _fresh(
        self, rows: Iterable[Mapping[str, Any]], known: Mapping[str, None], added: dict[str, None]
    ) -> Iterator[Mapping[str, Any]]:
        """The rows as they are, no id twice; their ids go to `added`."""
        for row in rows:
            name = str(row.get("id", ""))
            if name in known or name in added:
                raise InputError(f"{self.folder} would hold two tracks of id {name!r}")
            added[name] = None
            yield row

    def _publish(
        self, number: int, rows: Iterable[Mapping[str, Any]], columns: Mapping[str, ColumnType]
    ) -> list[Shard]:
        """Write one shard under a name that holds its hash; none for no rows."""
        partial = self.folder / f".tracks{PARTIAL}.{os.getpid()}.parquet"
        expected, count = schema(self.spec, columns), 0
        try:
            with pq.ParquetWriter(
                partial, expected, compression="zstd", write_page_checksum=True
            ) as writer:
                for batch in batches(rows, self.spec, columns):
                    writer.write_batch(batch)
                    count += len(batch)
            if not count:
                return []
            sync(partial)
            digest = sha256_of(partial)
            name = f"tracks-{number:05d}-{digest[:16]}.parquet"
            os.replace(partial, self.folder / name)
        except OSError as error:
            reason = error.strerror or str(error).splitlines()[0]
            raise InputError(f"can't write a shard into {self.folder}: {reason}") from error
        finally:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
        return [Shard(file=name, rows=count, sha256=digest)]

    def _commit(self, **changes: Any) -> None:
        """Make the changes count, all at once, then remove what no longer does.

        Raises:
            InputError: another writer was here in the meantime.
        """
        if read_manifest(self.folder) != self.manifest:
            raise InputError(f"another process writes to {self.folder}: let it end first")
        manifest = self.manifest.model_copy(update=changes)
        write_json(self.folder / MANIFEST, manifest.model_dump(mode="json"))
        self.manifest = manifest
        self._remove_orphans()

    def _widen(self, corpus: Corpus, columns: Mapping[str, ColumnType]) -> None:
        """Write the shards again if their columns don't cover `columns`, so that all are alike."""
        wide = dict(self.manifest.columns)
        for name, kind in columns.items():
            wide[name] = unify(wide.get(name, kind), kind)
        if wide == self.manifest.columns:
            return
        shards = [
            shard
            for number in range(len(self.manifest.shards))
            for shard in self._publish(number, corpus.shard_rows(number), wide)
        ]
        self._commit(shards=tuple(shards), columns=wide)

    def _remove_orphans(self) -> None:
        """Remove what a killed or finished replacement left, and nothing that is not ours."""
        current = {shard.file for shard in self.manifest.shards}
        mapped = {f"{shard.sha256[:32]}.arrow" for shard in self.manifest.shards}
        orphans = [p for p in self.folder.glob("tracks-*.parquet") if p.name not in current]
        for place in (self.folder, self.folder / MAPPED):
            orphans += [p for p in place.glob(f".*{PARTIAL}*") if p.is_file()]
        orphans += [p for p in self.folder.glob(f"{MAPPED}/*.arrow") if p.name not in mapped]
        for path in orphans:
            path.unlink(missing_ok=True)


def _require_settings(ours: dict[str, Any], theirs: dict[str, Any], folder: Path) -> None:
    """Refuse to mix what was made with different settings.

    Raises:
        InputError: says which setting differs, and both values.
    """
    for name in sorted({*ours, *theirs}):
        if ours.get(name) != theirs.get(name):
            own = f"with {name} {theirs[name]!r}" if name in theirs else f"without {name}"
            wanted = repr(ours[name]) if name in ours else "without"
            raise InputError(
                f"{folder} was made {own}, not {wanted}: choose another folder, or the same "
                "settings"
            )
