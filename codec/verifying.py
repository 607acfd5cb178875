"""Which shards of a token corpus are damaged, and how the others go on without them.

Every shard is read to its last code, as whoever uses it would read it, one row group at a time.
It knows the files of a corpus, neither networks nor what codes mean.
"""

from collections.abc import Collection, Iterator
from pathlib import Path

from codec.rows import CODES, Manifest, Shard
from codec.shards import MANIFEST, Shards, damaged, read_manifest
from codec.tokens import TokenSpec
from plugins.ground.errors import InputError
from plugins.ground.files import FolderLock, sha256_of, write_json
from plugins.ground.progress import Progress

DAMAGED = ".damaged"
"""Behind the name of a shard that was dropped: no reader of `*.parquet` takes it up, and no writer
removes it."""


class Inspection:
    """One look at all shards of a corpus.

    Args:
        folder: of the corpus.
        manifest: of the moment that is looked at.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder, self.manifest = folder, manifest
        self.tracks = self.codes = 0
        """Seen in sound shards so far."""
        self._shard_of: dict[str, str] = {}
        """By track id."""

    def reasons(self) -> Iterator[str]:
        """Why each shard can't be used, with its name; "" for one that is sound.

        Raises:
            InputError: there is too little memory to read one.
        """
        for shard in self.manifest.shards:
            try:
                self._look_at(shard)
                yield ""
            except InputError as error:
                lack = isinstance(error.__cause__, MemoryError)
                if lack and sha256_of(self.folder / shard.file) == shard.sha256:
                    raise  # it is sound, but this machine can't hold it
                yield str(error)

    def _look_at(self, shard: Shard) -> None:
        """Read one shard.

        Raises:
            InputError: it is missing or damaged, or has a track of another shard.
        """
        path = self.folder / shard.file
        manifest = self.manifest.model_copy(update={"shards": (shard,)})
        alone = Shards(self.folder, manifest, held=False)
        codes = 0
        for batch in alone.row_groups(0):
            names = [name for name in batch.schema.names if name.startswith(CODES)]
            codes += sum(len(batch.column(name).flatten()) for name in names)
        if sha256_of(path) != shard.sha256:
            raise damaged(path, f"its sha256 is not that of {MANIFEST}")
        own = dict.fromkeys(alone.ids, shard.file)
        if len(own) < len(alone.ids):
            raise damaged(path, "it holds two tracks of one id")
        if again := next((name for name in own if name in self._shard_of), None):
            raise damaged(path, f"it holds track {again!r}, as {self._shard_of[again]} does")
        self._shard_of |= own
        self.tracks += len(own)
        self.codes += codes


def verify_corpus(
    folder: Path | str, spec: TokenSpec | None = None, *, drop: bool = False
) -> tuple[Inspection, list[str]]:
    """Look at every shard of a corpus.

    Args:
        folder: of the corpus.
        spec: of a codec, which the corpus must be of.
        drop: publish the corpus without the shards that are damaged. Their files stay under another
            name (`DAMAGED`), and what made the corpus makes their tracks again.

    Returns:
        What was looked at, and why each of the damaged shards can't be used.

    Raises:
        InputError: no corpus, one of another codec, or one that can't be written.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    if spec is not None:
        spec.require(manifest.spec, "the codec", str(folder))
    inspection, reasons = Inspection(folder, manifest), []
    with Progress(len(manifest.shards), "verifying", "shards") as bar:
        for reason in inspection.reasons():
            reasons.append(reason)
            bar.advance(1)
    bad = [number for number, reason in enumerate(reasons) if reason]
    if drop and bad:
        _drop(folder, manifest, bad)
    return inspection, [reasons[number] for number in bad]


def _drop(folder: Path, manifest: Manifest, bad: Collection[int]) -> None:
    """Publish a corpus without some shards, by their numbers.

    A kill leaves it as it was, or with shards missing, which dropping once more mends.

    Raises:
        InputError: the folder can't be written, another process writes to it, or did so meanwhile.
    """
    kept = tuple(s for number, s in enumerate(manifest.shards) if number not in bad)
    unused = {manifest.shards[number].file for number in bad} - {s.file for s in kept}
    without = manifest.model_copy(update={"shards": kept})
    with FolderLock(folder):
        if read_manifest(folder) != manifest:
            raise InputError(f"{folder} has changed meanwhile: verify it again")
        for name in unused:
            _put_aside(folder / name)
        write_json(folder / MANIFEST, without.model_dump(mode="json"))


def _put_aside(path: Path) -> None:
    """Give a file, if there is one, a name that is free.

    Raises:
        InputError: the folder can't be written.
    """
    aside, count = path.with_name(path.name + DAMAGED), 2
    try:
        while aside.exists():
            aside, count = path.with_name(f"{path.name}-{count}{DAMAGED}"), count + 1
        path.rename(aside)
    except FileNotFoundError:
        return
    except OSError as error:
        raise InputError(f"can't rename {path}: {error.strerror}") from error
