"""What a folder of embeddings holds: its manifest, and vectors as rows of Parquet files.

It knows neither priors nor corpora. Shapes: T codes of a window, W width of a vector, R rows.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, ValidationError

from plugins.ground.errors import InputError, first_problem
from plugins.ground.files import published, read_json

FORMAT = 1
MANIFEST = "embeddings.json"
BYTES_PER_GROUP = 1 << 26
"""Of vectors in a row group."""
VECTOR = pa.list_(pa.field("element", pa.float32()))
Pool = Literal["mean", "none"]


class Settings(BaseModel):
    """What decides the rows, apart from their rounding."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    corpus: str
    """Fingerprint of the token corpus."""
    prior: str
    """SHA-256 of the prior's weights."""
    stream: str
    """Whose codes the prior models."""
    layer: int
    """Whose output it is, counted from 0."""
    pool: Pool
    labels: bool
    """The prior was told the tracks' metadata."""
    dtype: str
    """Of weights and computation."""
    width: int
    """W."""


class Part(BaseModel):
    """One Parquet file that is finished."""

    model_config = ConfigDict(frozen=True)

    file: str
    rows: int


class Manifest(BaseModel):
    """`embeddings.json`."""

    model_config = ConfigDict(frozen=True)

    format: int = FORMAT
    settings: Settings
    rows: int
    """Of all parts, once they are finished."""
    without_codes: tuple[str, ...]
    """Ids of the tracks that have no codes of the stream, and so no rows."""
    parts: tuple[Part, ...] = ()


def taken_up(out: Path, fresh: Manifest) -> Manifest:
    """The manifest in a folder, if it is of the same settings, or a fresh one if it has none.

    Raises:
        InputError: it is damaged, newer, or of other settings (says which).
    """
    path = out / MANIFEST
    if not path.exists():
        return fresh
    content = read_json(path)
    version = content.get("format") if isinstance(content, dict) else None
    if isinstance(version, int) and version > FORMAT:
        raise InputError(
            f"{path} has format {version}, newer than {FORMAT}: update jukebox-toolkit"
        )
    try:
        there = Manifest.model_validate(content)
    except ValidationError as error:
        raise InputError(f"{path} is damaged: {first_problem(error)}") from error
    for name in Settings.model_fields:
        ours, theirs = getattr(fresh.settings, name), getattr(there.settings, name)
        if ours != theirs:
            raise InputError(
                f"{out} was made with {name} {theirs!r}, not {ours!r}: choose another folder, or "
                "the same settings"
            )
    return there


def is_whole(out: Path, part: Part) -> bool:
    """Whether a part that the manifest lists is there with all of its rows."""
    try:
        return bool(pq.read_metadata(out / part.file).num_rows == part.rows)
    except (OSError, pa.ArrowException):
        return False


def track_rows(
    tracks: Sequence[str], lengths: Sequence[int], sums: Sequence[np.ndarray], layer: int
) -> pa.Table:
    """A row a track: the mean over its codes.

    Args:
        tracks: id of the track of each window; windows of one track are neighbours.
        lengths: T of each window.
        sums: over each window's codes, [1, W].
        layer: for the column of that name.
    """
    names = list(dict.fromkeys(tracks))
    first = [tracks.index(name) for name in names]
    counts = np.add.reduceat(np.asarray(lengths, np.int64), first)
    means = np.add.reduceat(np.concatenate(sums), first) / counts[:, None]
    return pa.table(
        {
            "id": pa.array(names, pa.string()),
            "layer": pa.array([layer] * len(names), pa.int64()),
            "codes": pa.array(counts),
            "embedding": _lists(means.astype(np.float32)),
        }
    )


def code_rows(
    tracks: Sequence[str], starts: Sequence[int], made: Sequence[np.ndarray], rate: float
) -> pa.Table:
    """A row a code.

    Args:
        tracks: id of the track of each window.
        starts: first code of each window.
        made: vectors of each window's codes, [T, W] float32.
        rate: codes per second.
    """
    names = [name for name, own in zip(tracks, made, strict=True) for _ in own]
    places = [start + np.arange(len(own)) for start, own in zip(starts, made, strict=True)]
    return pa.table(
        {
            "id": pa.array(names, pa.string()),
            "time": pa.array(np.concatenate(places) / rate),
            "embedding": _lists(np.concatenate(made)),
        }
    )


def _lists(rows: np.ndarray) -> pa.Array:
    """[R, W] float32 as a column of lists."""
    count, width = rows.shape
    offsets = pa.array(np.arange(0, (count + 1) * width, width, dtype=np.int32))
    return pa.ListArray.from_arrays(offsets, pa.array(rows.reshape(-1)), type=VECTOR)


def write_rows(path: Path, table: pa.Table, width: int) -> None:
    """Publish rows as a Parquet file that any reader opens, a bounded part at a time.

    Raises:
        InputError: the folder can't be written, or the disk is full.
    """
    group = max(1, BYTES_PER_GROUP // (4 * width))
    with published(path) as partial:
        pq.write_table(
            table, partial, row_group_size=group, compression="zstd", use_dictionary=["id"]
        )
