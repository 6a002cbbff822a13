"""The bytes of a run's tables, and what becomes of records that cannot be read: one warning, and they are absent."""

import io
import logging
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from magicvideo_core.errors import UnreadableError

logger = logging.getLogger(__name__)


def to_parquet(rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> bytes:
    """Return rows as one Parquet object with exactly the columns of `schema`."""
    return table_to_parquet(pa.Table.from_pylist(list(rows), schema=schema))


def table_to_parquet(table: pa.Table) -> bytes:
    """Return a table as one Parquet object."""
    buffer = io.BytesIO()
    # Without a checksum a flipped bit in a page reads as another value.
    pq.write_table(table, buffer, compression="zstd", write_page_checksum=True)
    return buffer.getvalue()


def from_parquet(data: bytes, uri: str, schema: pa.Schema | None = None) -> list[dict[str, Any]]:
    """Return the rows of a Parquet object; `uri` is for messages. Raises UnreadableError."""
    return list(table_from_parquet(data, uri, schema).to_pylist())


def table_from_parquet(data: bytes, uri: str, schema: pa.Schema | None = None) -> pa.Table:
    """Return a Parquet object as a table, of `schema` only its columns, null where it lacks one; `uri` is for messages.

    Raises UnreadableError.
    """
    try:
        file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
        if schema is None:
            return file.read(use_threads=False)
        # Names that are not there are passed over.
        table = file.read(schema.names, use_threads=False)
        for name in set(schema.names) - set(table.column_names):
            table = table.append_column(schema.field(name), pa.nulls(table.num_rows, schema.field(name).type))
        table = table.select(schema.names)
        return table if table.schema.equals(schema) else table.cast(schema)
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
        raise UnreadableError(f"{uri} ({len(data)} bytes): {first_line(error)}") from None


# Cached: the same object is met by every stage and shard that looks, and one warning is enough.
@lru_cache(maxsize=4096)
def warn_absent(what: str, message: str) -> None:
    """Warn, once, that an unreadable object counts as missing; `what` is a manifest, a plan or a journal record."""
    logger.warning("a %s is not readable and counts as missing: %s", what, message)


def first_line(error: BaseException) -> str:
    """Return type and first line of an error."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"
