"""Prompt files: from a path, URL, glob or standard input to rows of named values, or one clear sentence."""

import csv
import hashlib
import io
import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from magicvideo_core.errors import PromptError, StorageUnavailableError
from magicvideo_core.storage import expand_uri, read_uri

# A wrong path, an unknown protocol, a protocol whose package is not installed, or a store that does not answer.
_UNREADABLE = (OSError, ValueError, ImportError, StorageUnavailableError)
SUFFIXES = (".txt", ".csv", ".jsonl", ".parquet")
# How much of a file is text or objects at a time.
_PIECE_BYTES, _BATCH_ROWS = 2**20, 8192


@dataclass(frozen=True, slots=True)
class PromptRow:
    """One row of a prompt file as it was read: the file's name, the row's number from 1 (0: no file), its values."""

    file: str
    number: int
    values: Mapping[str, Any]

    @property
    def where(self) -> str:
        """The words that name the row in an error."""
        return f"Prompt file {self.file}, row {self.number}" if self.number else self.file


class PromptFiles:
    """The bytes of every file that a source names, read once; standard input can be read no second time."""

    def __init__(self, source: str) -> None:
        self._files = list(_read_sources(source))

    def hash(self) -> str:
        """Return 16 hex digits over what decides the rows: bytes and formats in their order, not the files' names."""
        digest = hashlib.sha256()
        for name, data in self._files:
            digest.update(f"{_suffix(name)} {len(data)}\n".encode())
            digest.update(data)
        return digest.hexdigest()[:16]

    def rows(self) -> Iterator[PromptRow]:
        """Give the rows of every file, one at a time. Raises PromptError."""
        for name, data in self._files:
            yield from _parse(name, data)


# 1. From a source to named bytes


def _read_sources(source: str) -> Iterator[tuple[str, bytes]]:
    if source == "-":
        data = sys.stdin.buffer.read()
        yield "standard input" + _sniff_suffix(data), data
        return
    for uri in _expand(source):
        try:
            yield uri, read_uri(uri)
        except FileNotFoundError:
            raise PromptError(f"Prompt file {uri} does not exist: check the path.") from None
        except IsADirectoryError:
            raise PromptError(f"Prompt file {uri} is a folder: name a file in it, or a glob such as *.csv.") from None
        except _UNREADABLE as error:
            raise PromptError(f"Prompt file {uri} cannot be read: {_reason(error)}.") from None


def _expand(source: str) -> list[str]:
    """Return the files that `source` names, all of a known suffix."""
    try:
        uris = expand_uri(source)
    except _UNREADABLE as error:
        raise PromptError(f"Prompt file {source} cannot be read: {_reason(error)}.") from None
    if not uris:
        raise PromptError(f"Prompt file {source} does not exist: no file matches.")
    for uri in uris:
        _suffix(uri)
    return uris


def _reason(error: Exception) -> str:
    text = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    return text.splitlines()[0].rstrip(".")


def _suffix(name: str) -> str:
    path = urlsplit(name).path if "://" in name else name
    suffix = PurePosixPath(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise PromptError(f"Prompt file {name} has the unknown suffix {suffix!r}: use one of {', '.join(SUFFIXES)}.")
    return suffix


def _sniff_suffix(data: bytes) -> str:
    """Guess the format of standard input from its first line; plain lines are prompts."""
    first_line = data.lstrip().partition(b"\n")[0].strip()
    if data.startswith(b"PAR1"):
        return ".parquet"
    if first_line.startswith(b"{"):
        return ".jsonl"
    return ".csv" if b"prompt" in [name.strip(b'" ') for name in first_line.split(b",")] else ".txt"


# 2. From bytes to rows


def _parse(name: str, data: bytes) -> Iterator[PromptRow]:
    if not data.strip():
        raise PromptError(f"Prompt file {name} is empty: write at least one prompt into it.")
    parse = {".txt": _parse_txt, ".csv": _parse_csv, ".jsonl": _parse_jsonl, ".parquet": _parse_parquet}[_suffix(name)]
    found = False
    for row in parse(name, data):
        found = True
        yield row
    if not found:
        raise PromptError(f"Prompt file {name} has no rows: write at least one prompt into it.")


def _decode(name: str, data: bytes) -> Iterator[str]:
    """Give the text in pieces that end where a line does."""
    start, line, encoding = 0, 1, "utf-8-sig"
    while start < len(data):
        end = data.find(b"\n", start + _PIECE_BYTES) + 1 or len(data)
        piece = data[start:end]
        try:
            yield piece.decode(encoding)
        except UnicodeDecodeError as error:
            line += piece.count(b"\n", 0, error.start)
            raise PromptError(
                f"Prompt file {name}, row {line}: byte 0x{piece[error.start]:02x} is not UTF-8; save the file as UTF-8."
            ) from None
        start, line, encoding = end, line + piece.count(b"\n"), "utf-8"


def _parse_txt(name: str, data: bytes) -> Iterator[PromptRow]:
    lines = (line for text in _decode(name, data) for line in text.splitlines())
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield PromptRow(name, number, {"prompt": line})


def _parse_csv(name: str, data: bytes) -> Iterator[PromptRow]:
    # As the csv module wants its lines: with what ends them, inside of quotes too.
    reader = csv.reader((line for text in _decode(name, data) for line in io.StringIO(text, newline="")), strict=True)
    try:
        header = [column.strip() for column in next(reader)]
        _check_columns(name, header)
        for number, values in enumerate((values for values in reader if values), start=1):
            row = PromptRow(name, number, dict(zip(header, values, strict=False)))
            if len(values) != len(header):
                raise PromptError(
                    f"{row.where}: {len(values)} values for {len(header)} columns; put text with commas into quotes."
                )
            yield row
    except csv.Error as error:
        raise PromptError(f"Prompt file {name}, line {reader.line_num} is not valid CSV: {error}.") from None


def _parse_jsonl(name: str, data: bytes) -> Iterator[PromptRow]:
    # Not splitlines: JSON strings may hold U+2028 and its kind unescaped.
    lines = (line for text in _decode(name, data) for line in text.removesuffix("\n").split("\n"))
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        row = PromptRow(name, number, {})
        try:
            values = json.loads(line)
        except json.JSONDecodeError as error:
            raise PromptError(f"{row.where} is not valid JSON: {error.msg} at column {error.colno}.") from None
        if not isinstance(values, dict):
            raise PromptError(f'{row.where} is not a JSON object: write one such as {{"prompt": "..."}}.')
        if "prompt" not in values:
            raise PromptError(f"{row.where} has no key 'prompt': add it.")
        yield PromptRow(name, number, values)


def _parse_parquet(name: str, data: bytes) -> Iterator[PromptRow]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        _check_columns(name, file.schema_arrow.names)
        number = 0
        for batch in file.iter_batches(_BATCH_ROWS):
            for values in batch.to_pylist():
                number += 1
                yield PromptRow(name, number, values)
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise PromptError(f"Prompt file {name} is not a readable Parquet file: {reason}.") from None


def _check_columns(name: str, columns: list[str]) -> None:
    if "prompt" not in columns:
        found = ", ".join(repr(column) for column in columns)
        raise PromptError(f"Prompt file {name} has no column 'prompt': name one of its columns so (found {found}).")
    doubled = [column for column, count in Counter(columns).items() if count > 1]
    if doubled:
        raise PromptError(f"Prompt file {name} has the column {doubled[0]!r} more than once: keep one of them.")
