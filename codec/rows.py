"""What a token corpus holds: its manifest, the columns of its tables, and rows to Arrow and back.

It knows no folder; `codec.corpus` reads and writes files. Shapes: N codes of a stream.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from codec.text import utf8
from codec.tokens import TokenSpec
from plugins.ground.errors import InputError

FORMAT = 1
CODES_PER_GROUP = 1 << 20
ROWS_PER_GROUP = 1024
TEXT_PER_GROUP = 1 << 26
"""A row group ends with the row that reaches one of these: codes, rows, characters."""
CODES_PER_TRACK = 1 << 29
"""The most that a row may hold, in all streams: 20 hours in the three published ones."""
LARGEST_TEXT = 1 << 30
"""Bytes of a row group beside its codes."""
LABELS = ("artist", "genre", "title", "lyrics")
TEXTS = ("id", "path", "audio_sha256", *LABELS)
CODES = "codes_"

Row = dict[str, Any]
ColumnType = Literal["string", "int64", "double", "bool"]
ARROW = {
    "string": pa.string(),
    "int64": pa.int64(),
    "double": pa.float64(),
    "bool": pa.bool_(),
}
CODE_LIST = pa.list_(pa.field("element", pa.uint16()))
WORDS = pa.list_(
    pa.field(
        "element",
        pa.struct([("start", pa.float32()), ("end", pa.float32()), ("text", pa.string())]),
    )
)


class Shard(BaseModel):
    """One Parquet file of a corpus."""

    model_config = ConfigDict(frozen=True)

    file: str = Field(pattern=r"^[^/\\\x00]+\.parquet$")
    rows: int = Field(ge=1)
    sha256: str
    content: str = ""
    """Checksum that it had before words got times; "" if they got none since it was written."""


class Skipped(BaseModel):
    """One input that could not be used."""

    model_config = ConfigDict(frozen=True)

    path: str
    """Its id."""
    reason: str


class Manifest(BaseModel):
    """`corpus.json`."""

    model_config = ConfigDict(frozen=True)

    format: int = FORMAT
    spec: TokenSpec
    settings: dict[str, Any] = {}
    """What made the corpus: two makers' tracks are not mixed."""
    columns: dict[str, ColumnType] = {}
    """Further metadata columns, alike in every shard."""
    shards: tuple[Shard, ...] = ()
    skipped: tuple[Skipped, ...] = ()


def schema(spec: TokenSpec, columns: Mapping[str, ColumnType]) -> pa.Schema:
    """The columns of every shard, in order."""
    fields = [(name, pa.string()) for name in TEXTS[:3]]
    fields += [("num_samples", pa.int64())]
    fields += [(name, pa.string()) for name in LABELS]
    fields += [(CODES + stream.name, CODE_LIST) for stream in spec.streams]
    fields += [("words", WORDS)]
    return pa.schema(fields + [(name, ARROW[kind]) for name, kind in sorted(columns.items())])


def column_types(
    rows: Iterable[Mapping[str, Any]], known: Mapping[str, ColumnType] | None = None
) -> dict[str, ColumnType]:
    """Types of the further metadata columns that all of `rows` fit, and `known` ones too.

    Numbers of both kinds are doubles; anything else that differs, and lists and objects (as
    JSON), is text.

    Raises:
        InputError: a column has a name that corpora use themselves.
    """
    types = dict(known or {})
    for row in rows:
        for name, value in row.items():
            if name in LABELS or name == "words" or value is None:
                continue
            if name in TEXTS or name == "num_samples" or name.startswith(CODES):
                raise InputError(
                    f"metadata column {name!r} has a name that token corpora use: rename it"
                )
            kind = _type(value)
            types[name] = unify(types.get(name, kind), kind)
    return types


def unify(one: ColumnType, other: ColumnType) -> ColumnType:
    """The type that values of both fit."""
    if one == other:
        return one
    return "double" if {one, other} == {"int64", "double"} else "string"


def _type(value: Any) -> ColumnType:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int) and -(1 << 63) <= value < 1 << 63:
        return "int64"
    return "double" if isinstance(value, float) else "string"


def batches(
    rows: Iterable[Mapping[str, Any]], spec: TokenSpec, columns: Mapping[str, ColumnType]
) -> Iterator[pa.RecordBatch]:
    """Rows as Arrow batches, a row group of Parquet each; holds one at a time.

    Raises:
        InputError: a row has no id, codes outside of their codebook, too many of them, or a column
            that is unknown.
    """
    held: list[Mapping[str, Any]] = []
    codes = text = 0
    for row in rows:
        held.append(row)
        own = sum(len(row.get(CODES + stream.name, ())) for stream in spec.streams)
        if own > CODES_PER_TRACK:
            raise InputError(
                f"track {row.get('id')!r} has {own:,} codes, but a track may have "
                f"{CODES_PER_TRACK:,}: cut it into parts"
            )
        codes += own
        text += sum(len(value) for value in row.values() if isinstance(value, str))
        full = codes >= CODES_PER_GROUP or text >= TEXT_PER_GROUP
        if full or len(held) >= ROWS_PER_GROUP:
            yield _batch(held, spec, columns)
            held, codes, text = [], 0, 0
    if held:
        yield _batch(held, spec, columns)


def _batch(
    rows: list[Mapping[str, Any]], spec: TokenSpec, columns: Mapping[str, ColumnType]
) -> pa.RecordBatch:
    expected = schema(spec, columns)
    for row in rows:
        strange = sorted(set(row) - set(expected.names))
        if strange or not row.get("id"):
            what = f"an unknown column {strange[0]!r}" if strange else "no id"
            raise InputError(f"track {row.get('id')!r} has {what}")
    arrays = []
    for field in expected:
        values = [row.get(field.name) for row in rows]
        if field.name.startswith(CODES):
            vocab_size = spec.stream(field.name.removeprefix(CODES)).vocab_size
            codes = [_codes(row, field.name, vocab_size) for row in rows]
            offsets = np.cumsum([0, *map(len, codes)], dtype=np.int32)
            flat = pa.array(np.concatenate(codes))
            arrays.append(pa.ListArray.from_arrays(pa.array(offsets), flat, type=CODE_LIST))
        elif field.name == "words":
            arrays.append(_words(values, rows))
        elif field.name == "num_samples":
            arrays.append(pa.array([int(value or 0) for value in values], pa.int64()))
        elif field.name in TEXTS:
            arrays.append(pa.array([_text(value) or "" for value in values], pa.string()))
        else:
            kind = columns[field.name]
            cast = [_cast(value, field.name, kind) for value in values]
            arrays.append(pa.array(cast, ARROW[kind]))
    return pa.record_batch(arrays, schema=expected)


def _codes(row: Mapping[str, Any], name: str, vocab_size: int) -> np.ndarray:
    """One row's codes of a stream, [N] uint16; none if it has none yet."""
    codes = np.asarray(row.get(name, ()))
    if codes.size == 0:
        return np.zeros(0, np.uint16)
    if codes.ndim != 1 or codes.dtype.kind not in "iu":
        raise InputError(f"track {row['id']!r}: {name} must be one row of integers")
    if codes.min() < 0 or codes.max() >= vocab_size:
        raise InputError(f"track {row['id']!r}: {name} leaves its codebook of {vocab_size}")
    return codes.astype(np.uint16, copy=False)


def _words(values: list[Any], rows: list[Mapping[str, Any]]) -> pa.Array:
    try:
        cleaned = [
            [{**word, "text": _text(word["text"])} for word in words or ()] for words in values
        ]
        made = pa.array(cleaned, WORDS)
    except (pa.ArrowException, TypeError, KeyError, ValueError) as error:
        ids = ", ".join(str(row["id"]) for row in rows[:3])
        raise InputError(
            f"words of {ids} or a track after them are no list of start, end (seconds) and text"
        ) from error
    times = [made.flatten().field(edge).to_numpy(zero_copy_only=False) for edge in ("start", "end")]
    strange = np.flatnonzero(~np.isfinite(times).all(0))
    if strange.size:
        number = made.value_parent_indices()[int(strange[0])].as_py()
        raise InputError(
            f"track {rows[number]['id']!r} has a word whose start or end is no finite number"
        )
    return made


def _text(value: Any) -> str | None:
    """As text that UTF-8 can hold; lists of labels are joined, other things are JSON."""
    if value is None:
        return None
    if isinstance(value, list | tuple) and all(isinstance(part, str) for part in value):
        value = "; ".join(value)
    plain = isinstance(value, str)
    return utf8(value if plain else json.dumps(value, ensure_ascii=False, default=str))


def _cast(value: Any, name: str, kind: ColumnType) -> Any:
    """A metadata value in its column's type."""
    if value is None:
        return None
    if kind == "string":
        return _text(value)
    found = _type(value)
    if found != kind and (found, kind) != ("int64", "double"):
        raise InputError(f"column {name!r} holds {kind}, but a track has {value!r} in it")
    return float(value) if kind == "double" else value


def check_rows(batch: pa.RecordBatch, spec: TokenSpec) -> None:
    """Refuse what no writer ever wrote, so that nobody who reads rows has to ask. (Older ones let
    words have times that are no numbers.)

    Args:
        batch: of any of a corpus's columns, in their types.
        spec: of the corpus.

    Raises:
        ValueError: says which column holds what (ArrowInvalid where Arrow's own rules are broken).
    """
    batch.validate(full=True)  # offsets, and that text is UTF-8
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        own = name in TEXTS or name in ("num_samples", "words") or name.startswith(CODES)
        if own and _lacks_values(column):
            raise ValueError(f"column {name} lacks values")
        if name.startswith(CODES):
            codes = column.flatten().to_numpy()
            vocab_size = spec.stream(name.removeprefix(CODES)).vocab_size
            if codes.size and codes.max() >= vocab_size:
                raise ValueError(f"column {name} leaves its codebook of {vocab_size}")
        elif name == "num_samples" and len(column) and column.to_numpy().min() < 0:
            raise ValueError("num_samples is negative")
        elif name == "id" and "" in column.to_pylist():
            raise ValueError("a track has no id")


def _lacks_values(column: pa.Array) -> bool:
    """Whether there is a null anywhere in it."""
    if column.null_count:
        return True
    if pa.types.is_list(column.type):
        return _lacks_values(column.flatten())
    return pa.types.is_struct(column.type) and any(map(_lacks_values, column.flatten()))


def read_row(batch: pa.RecordBatch, number: int, codes: bool = True) -> Row:
    """One row; codes are read-only views [N] uint16 into the batch."""
    row: Row = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        if not name.startswith(CODES):
            row[name] = column[number].as_py()
        elif codes:
            row[name] = column[number].values.to_numpy()
    return row
