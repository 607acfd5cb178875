"""Row groups of a token corpus, read from its shards when they are needed, few of them at hand.

For corpora that memory and disk have no room for once more: nothing is mapped and nothing written.
It knows files and Arrow batches; what is in a row is `codec.rows`'s.
"""

from collections import OrderedDict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from codec.rows import CODES
from codec.shards import Shards, open_shard

HELD = 16
"""Row groups at hand at a time, unless more are asked for."""


class Groups:
    """The row groups of a corpus, numbered through all shards."""

    def __init__(self, shards: Shards) -> None:
        self.held = HELD
        self._shards = shards
        self._places: list[tuple[int, int]] = []
        """Shard, and group in it."""
        self._counts: list[dict[str, int]] = []
        """Codes by column."""
        rows: list[int] = []
        for number in range(len(shards.manifest.shards)):
            with open_shard(shards.path(number)) as file:
                for group in range(file.metadata.num_row_groups):
                    told = file.metadata.row_group(group)
                    columns = (told.column(place) for place in range(told.num_columns))
                    counts = {c.path_in_schema.split(".")[0]: c.num_values for c in columns}
                    self._places.append((number, group))
                    self._counts.append(counts)
                    rows.append(told.num_rows)
        self._ends = np.cumsum(rows, dtype=np.int64)
        self._kept: OrderedDict[tuple[int, bool], pa.RecordBatch] = OrderedDict()

    def __getstate__(self) -> dict[str, object]:
        """Without what was read, so that other processes read their own."""
        return {**vars(self), "_kept": OrderedDict()}

    def __len__(self) -> int:
        return len(self._places)

    def rows(self, number: int) -> range:
        """The corpus's rows that a group holds."""
        return range(int(self._ends[number - 1]) if number else 0, int(self._ends[number]))

    def sizes(self, stream: str) -> np.ndarray:
        """How many codes of a stream each group holds, [groups] int64, by what shards say of them:
        a track without codes counts as one beside others that have some.
        """
        sizes = np.array([counts[CODES + stream] for counts in self._counts], np.int64)
        for number in range(len(sizes)):
            rows = self.rows(number)
            if sizes[number] <= len(rows):  # perhaps none of them has any
                batch = self._read(number, codes=True)
                sizes[number] = pc.sum(pc.list_value_length(batch.column(CODES + stream))).as_py()
        return sizes

    def at(self, index: int, codes: bool = True) -> tuple[pa.RecordBatch, int]:
        """The batch that holds a row, and the row's number there.

        Raises:
            IndexError: there is no such row.
            InputError: its shard is missing or damaged.
        """
        total = len(self._shards.ids)
        if not -total <= index < total:
            raise IndexError(f"row {index} of {total}")
        index %= total
        number = int(np.searchsorted(self._ends, index, side="right"))
        return self._read(number, codes), index - self.rows(number).start

    def _read(self, number: int, codes: bool) -> pa.RecordBatch:
        """One group as one batch, with codes or without."""
        key = (number, codes)
        if key not in self._kept:
            shard, group = self._places[number]
            with open_shard(self._shards.path(shard)) as file:
                names = [n for n in file.schema_arrow.names if codes or not n.startswith(CODES)]
                self._kept[key] = self._shards.read_group(shard, file, group, names)
            while len(self._kept) > self.held:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]
