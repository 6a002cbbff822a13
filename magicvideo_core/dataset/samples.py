"""What a dataset holds of a clip, its files and its record; and the shards of samples, cut before anything is written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa

from magicvideo_core.concurrent_io import map_concurrently
from magicvideo_core.dataset.measurements import FACTS
from magicvideo_core.dataset.request import ExportRequest
from magicvideo_core.dataset.selection import parts_of
from magicvideo_core.manifest.artifacts import read_artifact
from magicvideo_core.redact import redact
from magicvideo_core.storage import Storage

# What comes from the manifest as it is.
_FROM_ROW = ("clip_id", "run_id", "stage", "split", "prompt", "negative_prompt", "seed")
_OF_MEDIUM = ("width", "height", "num_frames", "fps", "sha256", "size_bytes")


@dataclass(frozen=True, slots=True)
class SampleFile:
    """One file of a sample: the end of its name (`mp4`, `t2i.png`), where it comes from, and what its bytes are."""

    suffix: str
    stage: str
    artifact_uri: str
    sha256: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Sample:
    """One clip of a dataset: `files`, the exported stage's first, and `record`, plain JSON values that say what it is."""

    key: str
    run: int
    files: tuple[SampleFile, ...]
    record: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Shard:
    """Samples that are written together: the rows `start` to `stop` of the kept ones. `name` is unique in the dataset."""

    split: str
    number: int
    start: int
    stop: int

    @property
    def name(self) -> str:
        return f"{self.split}-{self.number:05d}"


def cut_shards(kept: pa.Table, request: ExportRequest) -> list[Shard]:
    """Cut the kept clips, which are in the order of their splits, by number and by size; one clip is never cut."""
    most_bytes = request.shard_mib * 2**20
    names = ["size_bytes", *(f"{stage}.size_bytes" for stage in request.include)]
    sizes = [sum(each) for each in zip(*(kept[name].to_pylist() for name in names), strict=True)]
    shards: list[Shard] = []
    start, total = 0, 0
    splits = [str(split) for split in kept["split"].to_pylist()]
    for index, (split, size) in enumerate(zip(splits, sizes, strict=True)):
        if index > start and (
            split != splits[start] or index - start == request.shard_clips or total + size > most_bytes
        ):
            shards.append(_next_shard(shards, splits[start], start, index))
            start, total = index, 0
        total += size
    return [*shards, _next_shard(shards, splits[start], start, len(splits))] if splits else []


def samples_of(kept: pa.Table, shard: Shard, request: ExportRequest) -> list[Sample]:
    """Return the samples of a shard in their order."""
    rows = kept.slice(shard.start, shard.stop - shard.start).to_pylist()
    return [_sample(row, request) for row in rows]


def read_files(storages: Sequence[Storage], samples: Sequence[Sample]) -> Iterator[tuple[Sample, list[bytes]]]:
    """Give each sample with the bytes of its files, hashed as they are read; several are read at once.

    Raises UpstreamLostError where an artifact is gone or is not what its row says.
    """

    def read(sample: Sample) -> list[bytes]:
        storage = storages[sample.run]
        return [read_artifact(storage, each.stage, each.artifact_uri, each.sha256) for each in sample.files]

    num_readers = max(storage.num_readers for storage in storages)
    yield from zip(samples, map_concurrently(read, samples, num_readers), strict=True)


def _next_shard(shards: Sequence[Shard], split: str, start: int, stop: int) -> Shard:
    return Shard(split, sum(each.split == split for each in shards), start, stop)


def _sample(row: Mapping[str, Any], request: ExportRequest) -> Sample:
    files = [
        SampleFile(_suffix(row["artifact_uri"]), row["stage"], row["artifact_uri"], row["sha256"], row["size_bytes"])
    ]
    for stage, part in parts_of(row, request.include).items():
        files.append(SampleFile(f"{stage}.{_suffix(part['artifact_uri'])}", stage, **part))
    record: dict[str, Any] = {"key": row["key"], **{name: row[name] for name in (*_FROM_ROW, *_OF_MEDIUM)}}
    # Texts where there is nothing, and one text for whatever columns a prompt file had: readers that guess a type from the
    # first samples then guess right. What a prompt brought along may name its store with a password.
    record |= {name: redact(row[name] or "") for name in ("source_id", "recipe_hash", "image", "video")}
    record["extra"] = row["extra"] or "{}"
    record["files"] = {each.suffix: {"sha256": each.sha256, "size_bytes": each.size_bytes} for each in files}
    if request.measurements:
        record["measurements"] = {name: row[name] for name in FACTS}
    return Sample(row["key"], row["run"], tuple(files), record)


def _suffix(artifact_uri: str) -> str:
    return PurePosixPath(artifact_uri).suffix.removeprefix(".")
