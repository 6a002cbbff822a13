"""Reads Parquet manifests of captioned media: a person's own tables, or the manifests that runs of this project write."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from magicvideo_core.errors import ConfigError, StorageUnavailableError, UnreadableError
from magicvideo_core.ids import STAGES
from magicvideo_core.listing import has_wildcards
from magicvideo_core.manifest.parquet import from_parquet
from magicvideo_core.redact import redact
from magicvideo_core.storage import Storage, expand_uri, read_uri

URI_COLUMNS = ("uri", "artifact_uri", "file_name")
CAPTION_COLUMNS = ("caption", "prompt", "text")
_UNREADABLE = (OSError, ValueError, ImportError, StorageUnavailableError, UnreadableError)


@dataclass(frozen=True, slots=True)
class MediaRow:
    """A captioned image or video: `uris` are the places to look for it, in this order; `where` names the row."""

    where: str
    uris: tuple[str, ...]
    caption: str


def read_media_rows(sources: Sequence[str]) -> list[MediaRow]:
    """Return the rows of manifests given as files, globs or folders (any fsspec URL), in their order.

    Of a run's manifests, each clip counts once: what its last finished stage made; a clip without any is left out.
    A `uri` may be relative to its manifest. Raises ConfigError where a source cannot be read or has no such columns.
    """
    rows: list[MediaRow] = []
    clips: dict[tuple[str, str], dict[str, tuple[int, bool, MediaRow]]] = {}
    for manifest in dict.fromkeys(uri for source in sources for uri in _manifests_of(source)):
        table = _read(manifest)
        if not table:
            continue
        uri_column, caption_column = (
            _column(table[0], URI_COLUMNS, manifest),
            _column(table[0], CAPTION_COLUMNS, manifest),
        )
        for number, values in enumerate(table, start=1):
            row = MediaRow(
                f"{redact(manifest)}, row {number}",
                _places(manifest, _text(values[uri_column])),
                _text(values[caption_column]),
            )
            if "stage" not in values or "status" not in values or "clip_id" not in values:
                rows.append(row)
                continue
            stages = clips.setdefault((str(values.get("run_id")), str(values["clip_id"])), {})
            attempt = int(values.get("attempt") or 0)
            if attempt >= stages.get(values["stage"], (0, False, row))[0]:
                stages[values["stage"]] = attempt, values["status"] == "succeeded", row
    return rows + [row for stages in clips.values() for row in _last_finished(stages)]


def _last_finished(stages: Mapping[str, tuple[int, bool, MediaRow]]) -> list[MediaRow]:
    """The row of the last stage that succeeded, none where none did."""
    finished = [stages[stage][2] for stage in STAGES if stage in stages and stages[stage][1]]
    return finished[-1:]


def _manifests_of(source: str) -> Iterable[str]:
    """The Parquet files that a source names; of a run's folder its manifests alone, of an export's its metadata."""
    try:
        if source.endswith(".parquet") or has_wildcards(source):
            found = expand_uri(source)
        else:
            storage = Storage(source)
            keys = [key for key in storage.list() if key.endswith(".parquet")]
            of_runs = [key for key in keys if "manifests" in key.split("/")[:-1]]
            of_exports = [key for key in keys if key.rpartition("/")[2] == "metadata.parquet"]
            found = [storage.join(key) for key in of_runs or of_exports or keys]
    except _UNREADABLE as error:
        raise ConfigError(f"Training data {redact(source)} cannot be read: {_reason(error)}.") from None
    if not found:
        raise ConfigError(f"Training data {redact(source)} holds no Parquet file: check the path.")
    return found


def _read(manifest: str) -> list[dict[str, Any]]:
    try:
        return from_parquet(read_uri(manifest), manifest)
    except FileNotFoundError:
        raise ConfigError(f"Training data {redact(manifest)} does not exist: check the path.") from None
    except _UNREADABLE as error:
        raise ConfigError(f"Training data {redact(manifest)} cannot be read: {_reason(error)}.") from None


def _column(values: Mapping[str, Any], names: Sequence[str], manifest: str) -> str:
    for name in names:
        if name in values:
            return name
    found = ", ".join(map(repr, values))
    raise ConfigError(
        f"Training data {redact(manifest)} has no column {names[0]!r}: name one of its columns so (found {found})."
    )


def _places(manifest: str, uri: str) -> tuple[str, ...]:
    """Where a row's medium may lie: beside its manifest if relative; in the run that holds the manifest, if moved."""
    if not uri:
        return ()
    folder = manifest.rpartition("/")[0] or "."
    if "://" not in uri and not Path(uri).is_absolute():
        return (f"{folder}/{uri}",)
    run, in_a_run, _ = manifest.rpartition("/manifests/")
    _, is_artifact, key = uri.rpartition("/artifacts/")
    moved = [f"{run}/artifacts/{key}"] if in_a_run and is_artifact else []
    return tuple(dict.fromkeys([*moved, uri]))


def _text(value: Any) -> str:
    return value.strip() if isinstance(value, str) else ""


def _reason(error: Exception) -> str:
    text = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    return redact(text.splitlines()[0].rstrip("."))
