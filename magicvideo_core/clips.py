"""Clips: one as an object, and a whole prompt set in columns, which become objects only where they are asked for."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any, cast, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from magicvideo_core.ids import canonical_json, set_hash


@dataclass(frozen=True, slots=True)
class Clip:
    """One prompt with its seed on its way to one video; `extra` holds the prompt file's other columns."""

    clip_id: str
    prompt: str
    negative_prompt: str = ""
    seed: int = 0
    image: str | None = None
    video: str | None = None
    source_id: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    def to_row(self) -> dict[str, Any]:
        """Return the clip as a row of the plan, `extra` as a JSON string."""
        return {**asdict(self), "extra": canonical_json(self.extra)}

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Clip:
        """Return the clip of a plan row; columns that are none of the clip's are ignored."""
        values = {name: row[name] for name in cls.__slots__}
        return cls(**{**values, "extra": json.loads(row["extra"])})


# The columns of a table of clips, in the order of the fields above; `extra` is a JSON string.
_COLUMNS: list[tuple[str, pa.DataType]] = [
    ("clip_id", pa.string()),
    ("prompt", pa.string()),
    ("negative_prompt", pa.string()),
    ("seed", pa.int64()),
    ("image", pa.string()),
    ("video", pa.string()),
    ("source_id", pa.string()),
    ("extra", pa.string()),
]
CLIP_SCHEMA = pa.schema(_COLUMNS)
# Rows that are Python objects at a time, while a table is built or gone through.
_CHUNK = 8192
_ID_WIDTH = 16


class ClipTable(Sequence[Clip]):
    """An immutable sequence of clips; a slice of it shares its memory. `columns` has `CLIP_SCHEMA`'s, in any chunks."""

    def __init__(self, columns: pa.Table) -> None:
        fits = columns.schema.equals(CLIP_SCHEMA)
        self.columns = columns if fits else columns.select(CLIP_SCHEMA.names).cast(CLIP_SCHEMA)
        self._hash: str | None = None

    @classmethod
    def of(cls, clips: Iterable[Clip]) -> ClipTable:
        """Return the table of clips; of one that is a table already, itself."""
        if isinstance(clips, ClipTable):
            return clips
        builder = ClipTableBuilder()
        for clip in clips:
            builder.add(*clip.to_row().values())
        return builder.finish()

    @classmethod
    def concat(cls, tables: Sequence[ClipTable]) -> ClipTable:
        """Return the clips of several tables, one after the other, in few chunks."""
        parts = [table.columns for table in tables] or [CLIP_SCHEMA.empty_table()]
        return cls(pa.concat_tables(parts).combine_chunks())

    def __len__(self) -> int:
        return int(self.columns.num_rows)

    @overload
    def __getitem__(self, index: int) -> Clip: ...
    @overload
    def __getitem__(self, index: slice) -> ClipTable: ...
    def __getitem__(self, index: int | slice) -> Clip | ClipTable:
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            if step != 1:
                return ClipTable(self.columns.take(list(range(start, stop, step))))
            return ClipTable(self.columns.slice(start, max(stop - start, 0)))
        row = range(len(self))[index]
        return Clip.from_row(self.columns.slice(row, 1).to_pylist()[0])

    def __iter__(self) -> Iterator[Clip]:
        for batch in self.columns.to_batches(max_chunksize=_CHUNK):
            yield from (Clip.from_row(row) for row in batch.to_pylist())

    def __eq__(self, other: object) -> bool:
        if isinstance(other, ClipTable):
            return bool(self.columns.equals(other.columns))
        return isinstance(other, Sequence) and len(self) == len(other) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def ids(self) -> list[str]:
        """Return the clip ids in order; for tables of a shard's size."""
        return cast(list[str], self.columns["clip_id"].to_pylist())

    def id_array(self) -> npt.NDArray[np.bytes_]:
        """Return the clip ids in order as fixed-width bytes: 16 a clip."""
        ids = self.columns["clip_id"]
        width = pc.max(pc.binary_length(ids)).as_py() or _ID_WIDTH
        dtype = np.dtype(f"S{width}")
        try:
            fixed = [chunk.cast(pa.binary()).cast(pa.binary(width)) for chunk in ids.chunks]
        # Ids of several lengths, which no prompt file gives.
        except pa.ArrowInvalid:
            return np.array([each.encode() for each in self.ids()], dtype)
        views = [np.frombuffer(cast(Any, part.buffers()[1]), dtype)[part.offset :][: len(part)] for part in fixed]
        return np.concatenate(views) if views else np.empty(0, dtype)

    def distinct(self, name: str) -> Iterator[str]:
        """Give the values of a column once each, in order of appearance, without the absent ones."""
        values = self.columns[name].unique().drop_null()
        for start in range(0, len(values), _CHUNK):
            yield from cast(list[str], values.slice(start, _CHUNK).to_pylist())

    def num_lacking(self, other: ClipTable) -> int:
        """Return how many clips of another table are not in this one, by id."""
        return int(np.setdiff1d(other.id_array(), self.id_array()).size)

    def hash(self) -> str:
        """Return 16 hex digits over the set of clip ids, whatever their order."""
        if self._hash is None:
            ordered = np.sort(self.id_array())
            chunks = (ordered[start : start + _CHUNK].tolist() for start in range(0, len(ordered), _CHUNK))
            self._hash = set_hash(each.decode() for chunk in chunks for each in chunk)
        return self._hash


class ClipTableBuilder:
    """Takes the values of one clip after another, in the order of `CLIP_SCHEMA`, and keeps columns."""

    def __init__(self) -> None:
        self._batches: list[pa.RecordBatch] = []
        # Lists of values, not of rows: a million small containers would keep the garbage collector busy.
        self._columns: list[list[Any]] = [[] for _ in CLIP_SCHEMA]

    def add(self, *values: Any) -> None:
        """Append one clip; `extra` is a JSON string."""
        for column, value in zip(self._columns, values, strict=True):
            column.append(value)
        if len(self._columns[0]) == _CHUNK:
            self._flush()

    def finish(self) -> ClipTable:
        """Return what was added."""
        self._flush()
        return ClipTable(pa.Table.from_batches(self._batches, CLIP_SCHEMA))

    def _flush(self) -> None:
        arrays = [pa.array(values, field.type) for values, field in zip(self._columns, CLIP_SCHEMA, strict=True)]
        self._batches.append(pa.RecordBatch.from_arrays(arrays, schema=CLIP_SCHEMA))
        self._columns = [[] for _ in CLIP_SCHEMA]


class Shards(Sequence[ClipTable]):
    """The clips of a run, cut into shards; shard ids count from 0."""

    def __init__(self, clips: ClipTable, starts: Sequence[int]) -> None:
        self.clips = clips
        self._bounds = [*starts, len(clips)]
        assert all(first <= second for first, second in pairwise(self._bounds))

    @classmethod
    def of(cls, shards: Iterable[Iterable[Clip]]) -> Shards:
        """Return shards given one by one."""
        tables = [ClipTable.of(shard) for shard in shards]
        ends = np.cumsum([len(table) for table in tables], dtype=int).tolist()
        return cls(ClipTable.concat(tables), [0, *ends][: len(tables)])

    @classmethod
    def cut(cls, clips: Iterable[Clip], size: int) -> Shards:
        """Cut clips into shards of `size` in their order; the last one may be shorter."""
        table = ClipTable.of(clips)
        return cls(table, range(0, len(table), size))

    def __len__(self) -> int:
        return len(self._bounds) - 1

    @overload
    def __getitem__(self, index: int) -> ClipTable: ...
    @overload
    def __getitem__(self, index: slice) -> list[ClipTable]: ...
    def __getitem__(self, index: int | slice) -> ClipTable | list[ClipTable]:
        numbers = range(len(self))[index]
        if isinstance(numbers, range):
            return [self[number] for number in numbers]
        return self.clips[self._bounds[numbers] : self._bounds[numbers + 1]]
