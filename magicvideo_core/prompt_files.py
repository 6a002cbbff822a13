"""Prompt files: from a path, URL, glob or standard input to rows of named values, or one clear sentence."""

import csv
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


@dataclass(frozen=True, slots=True)
class PromptRow:
    """One row of a prompt file as it was read, with the words that name it in an error."""

    where: str
    values: Mapping[str, Any]


def read_rows(source: str) -> list[PromptRow]:
    """Return the rows of every file that `source` names. Raises PromptError."""
    return [row for name, data in _read_sources(source) for row in _parse(name, data)]


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


def _parse(name: str, data: bytes) -> list[PromptRow]:
    if not data.strip():
        raise PromptError(f"Prompt file {name} is empty: write at least one prompt into it.")
    suffix = _suffix(name)
    if suffix == ".parquet":
        rows = _parse_parquet(name, data)
    else:
        parse = {".txt": _parse_txt, ".csv": _parse_csv, ".jsonl": _parse_jsonl}[suffix]
        rows = parse(name, _decode(name, data))
    if not rows:
        raise PromptError(f"Prompt file {name} has no rows: write at least one prompt into it.")
    return rows


def _decode(name: str, data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise PromptError(
            f"Prompt file {name}, row {line}: byte 0x{data[error.start]:02x} is not UTF-8; save the file as UTF-8."
        ) from None


def _parse_txt(name: str, text: str) -> list[PromptRow]:
    lines = enumerate(text.splitlines(), start=1)
    return [PromptRow(f"Prompt file {name}, row {number}", {"prompt": line}) for number, line in lines if line.strip()]


def _parse_csv(name: str, text: str) -> list[PromptRow]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows: list[PromptRow] = []
    try:
        header = [column.strip() for column in next(reader)]
        _check_columns(name, header)
        for number, values in enumerate((values for values in reader if values), start=1):
            where = f"Prompt file {name}, row {number}"
            if len(values) != len(header):
                raise PromptError(
                    f"{where}: {len(values)} values for {len(header)} columns; put text with commas into quotes."
                )
            rows.append(PromptRow(where, dict(zip(header, values, strict=True))))
    except csv.Error as error:
        raise PromptError(f"Prompt file {name}, line {reader.line_num} is not valid CSV: {error}.") from None
    return rows


def _parse_jsonl(name: str, text: str) -> list[PromptRow]:
    rows = []
    # Not splitlines: JSON strings may hold U+2028 and its kind unescaped.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        where = f"Prompt file {name}, row {number}"
        try:
            values = json.loads(line)
        except json.JSONDecodeError as error:
            raise PromptError(f"{where} is not valid JSON: {error.msg} at column {error.colno}.") from None
        if not isinstance(values, dict):
            raise PromptError(f'{where} is not a JSON object: write one such as {{"prompt": "..."}}.')
        if "prompt" not in values:
            raise PromptError(f"{where} has no key 'prompt': add it.")
        rows.append(PromptRow(where, values))
    return rows


def _parse_parquet(name: str, data: bytes) -> list[PromptRow]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(pa.BufferReader(data))
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise PromptError(f"Prompt file {name} is not a readable Parquet file: {reason}.") from None
    _check_columns(name, table.column_names)
    rows = enumerate(table.to_pylist(), start=1)
    return [PromptRow(f"Prompt file {name}, row {number}", values) for number, values in rows]


def _check_columns(name: str, columns: list[str]) -> None:
    if "prompt" not in columns:
        found = ", ".join(repr(column) for column in columns)
        raise PromptError(f"Prompt file {name} has no column 'prompt': name one of its columns so (found {found}).")
    doubled = [column for column, count in Counter(columns).items() if count > 1]
    if doubled:
        raise PromptError(f"Prompt file {name} has the column {doubled[0]!r} more than once: keep one of them.")
