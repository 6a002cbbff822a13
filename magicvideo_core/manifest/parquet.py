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
    buffer = io.BytesIO()
    table = pa.Table.from_pylist(list(rows), schema=schema)
    # Without a checksum a flipped bit in a page reads as another value.
    pq.write_table(table, buffer, compression="zstd", write_page_checksum=True)
    return buffer.getvalue()


def from_parquet(data: bytes, uri: str, schema: pa.Schema | None = None) -> list[dict[str, Any]]:
    """Return the rows of a Parquet object; `uri` is for messages. Raises UnreadableError."""
    try:
        table = pq.read_table(pa.BufferReader(data), schema=schema, page_checksum_verification=True)
        return table.to_pylist()
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
