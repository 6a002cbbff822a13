"""The two layouts of a dataset: WebDataset's tar shards, and the folders with metadata.parquet that Hugging Face reads."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa

from magicvideo_core.concurrent_io import map_concurrently
from magicvideo_core.dataset.measurements import FACTS, MEASUREMENT_SCHEMA
from magicvideo_core.dataset.request import ExportRequest
from magicvideo_core.dataset.samples import Sample, Shard, read_files, samples_of
from magicvideo_core.ids import canonical_json
from magicvideo_core.manifest.parquet import to_parquet
from magicvideo_core.storage import Storage, StoredObject

# Readers of metadata.parquet find the medium by it, relative to the table.
FILE_NAME = "file_name"


@dataclass(frozen=True, slots=True)
class ShardRecord:
    """What one shard came to: the objects to find in the dataset, by key, each with hash and size."""

    num_samples: int
    size_bytes: int
    objects: Mapping[str, Mapping[str, Any]]

    def to_json(self) -> dict[str, Any]:
        """Return the record as plain JSON values."""
        return {"num_samples": self.num_samples, "size_bytes": self.size_bytes, "objects": dict(self.objects)}


def write_webdataset(
    target: Storage, shard: Shard, samples: Sequence[Sample], sources: Sequence[Storage], there: Mapping[str, int]
) -> ShardRecord:
    """Write one tar: for each sample `key.json` and its files, such as `key.mp4` and `key.t2i.png`, next to each other.

    The same samples give the same bytes: no times, owners or modes of this machine.
    """
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for sample, contents in read_files(sources, samples):
            _add(tar, f"{sample.key}.json", canonical_json(sample.record).encode())
            for file, data in zip(sample.files, contents, strict=True):
                _add(tar, f"{sample.key}.{file.suffix}", data)
    stored = target.write(f"{shard.name}.tar", buffer.getvalue())
    return ShardRecord(len(samples), stored.size_bytes, {f"{shard.name}.tar": _facts_of(stored)})


def write_huggingface(
    target: Storage, shard: Shard, samples: Sequence[Sample], sources: Sequence[Storage], there: Mapping[str, int]
) -> ShardRecord:
    """Write a folder of files, `train/00000/key.mp4`, and one for each included stage, `t2i/train/00000/key.png`.

    What is `there` already, by key and size, is left as it is.
    """
    paths = {sample.key: _paths(shard, sample) for sample in samples}
    objects: dict[str, dict[str, Any]] = {
        path: {"sha256": each.sha256, "size_bytes": each.size_bytes}
        for sample in samples
        for path, each in zip(paths[sample.key], sample.files, strict=True)
    }
    # A name stands for one artifact, and an object is whole or absent: its size says enough.
    missing = [
        sample
        for sample in samples
        if any(there.get(path) != objects[path]["size_bytes"] for path in paths[sample.key])
    ]

    def write(pair: tuple[Sample, list[bytes]]) -> None:
        sample, contents = pair
        for path, data in zip(paths[sample.key], contents, strict=True):
            target.write(path, data)

    for _ in map_concurrently(write, read_files(sources, missing), target.num_readers):
        pass
    size_bytes = sum(each["size_bytes"] for each in objects.values())
    return ShardRecord(len(samples), size_bytes, objects)


WRITERS = {"webdataset": write_webdataset, "huggingface": write_huggingface}


def write_metadata(
    target: Storage, kept: pa.Table, shards: Sequence[Shard], request: ExportRequest
) -> list[StoredObject]:
    """Write `{split}/metadata.parquet` of every split: one row per sample, with the file beside it that it is about."""
    schema = _metadata_schema(request)
    written = []
    for split in dict.fromkeys(shard.split for shard in shards):
        rows = [
            _metadata_row(shard, sample)
            for shard in shards
            if shard.split == split
            for sample in samples_of(kept, shard, request)
        ]
        written.append(target.write(f"{split}/metadata.parquet", to_parquet(rows, schema)))
    return written


def _metadata_schema(request: ExportRequest) -> pa.Schema:
    texts = (FILE_NAME, "key", "clip_id", "run_id", "stage", "prompt", "negative_prompt")
    fields: list[tuple[str, pa.DataType]] = [(name, pa.string()) for name in texts]
    fields += [("seed", pa.int64()), ("width", pa.int32()), ("height", pa.int32()), ("num_frames", pa.int32())]
    fields += [("fps", pa.float64()), ("sha256", pa.string()), ("size_bytes", pa.int64()), ("recipe_hash", pa.string())]
    fields += [(name, pa.string()) for name in ("source_id", "given_image", "given_video", "extra")]
    for stage in request.include:
        # From the dataset's root, and not `{stage}_file_name`: readers would decode an image as what the samples are.
        fields += [(f"{stage}_path", pa.string()), (f"{stage}_sha256", pa.string())]
    if request.measurements:
        fields += [(name, MEASUREMENT_SCHEMA.field(name).type) for name in FACTS]
    return pa.schema(fields)


def _metadata_row(shard: Shard, sample: Sample) -> dict[str, Any]:
    record = dict(sample.record)
    row = {**record, **record.get("measurements", {})}
    # `image` and `video` are what readers call the decoded medium.
    row |= {"given_image": row.pop("image"), "given_video": row.pop("video")}
    first, *others = _paths(shard, sample)
    row[FILE_NAME] = first.removeprefix(f"{shard.split}/")
    for path, each in zip(others, sample.files[1:], strict=True):
        row |= {f"{each.stage}_path": path, f"{each.stage}_sha256": each.sha256}
    return row


def _paths(shard: Shard, sample: Sample) -> list[str]:
    """Return the key of each of a sample's files in the dataset: readers take every file of a split for a sample."""
    place = f"{shard.split}/{shard.number:05d}/{sample.key}"
    others = [f"{each.stage}/{place}{PurePosixPath(each.artifact_uri).suffix}" for each in sample.files[1:]]
    return [f"{place}.{sample.files[0].suffix}", *others]


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(data), 0o644
    tar.addfile(member, io.BytesIO(data))


def _facts_of(stored: StoredObject) -> dict[str, Any]:
    return {"sha256": stored.sha256, "size_bytes": stored.size_bytes}
