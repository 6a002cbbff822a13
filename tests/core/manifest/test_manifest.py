"""Manifests, plan, journal and run record: the contract's columns, and the latest attempt as the truth."""

import dataclasses
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from magicvideo_core import ids
from magicvideo_core.clips import Clip, ClipTable, Shards
from magicvideo_core.config import load_config
from magicvideo_core.errors import InputError, RunError
from magicvideo_core.manifest import layout
from magicvideo_core.manifest.journal import list_records, read_records, write_record
from magicvideo_core.manifest.plan import list_shards, read_plan, write_plan
from magicvideo_core.manifest.run_record import new_run_record, read_run_json, write_run_json
from magicvideo_core.manifest.schema import MANIFEST_SCHEMA, ManifestRow
from magicvideo_core.manifest.table import last_attempt, read_manifests, write_manifest
from magicvideo_core.prompts import clip_of_prompt
from magicvideo_core.storage import Storage

CONTRACT = [
    "run_id",
    "clip_id",
    "shard_id",
    "stage",
    "attempt",
    "status",
    "prompt",
    "seed",
    "artifact_uri",
    "sha256",
    "size_bytes",
    "width",
    "height",
    "num_frames",
    "fps",
    "recipe_hash",
    "error_type",
    "error_message",
    "started_at",
    "duration_s",
    "gpu_s",
    "device",
    "actor_id",
]


def _row(**changes: Any) -> ManifestRow:
    values = {"run_id": "r", "clip_id": "c0", "shard_id": 0, "stage": "t2i", "attempt": 1, "status": "succeeded"}
    return ManifestRow(**{**values, "prompt": "a cat", "seed": 2**40, **changes})


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(tmp_path / "run")


def test_the_schema_begins_with_the_contract_and_has_a_version() -> None:
    assert MANIFEST_SCHEMA.names[: len(CONTRACT)] == CONTRACT
    assert MANIFEST_SCHEMA.metadata == {b"magicvideo.schema_version": b"2"}
    assert [field.name for field in dataclasses.fields(ManifestRow)] == MANIFEST_SCHEMA.names


@pytest.mark.parametrize("rows", [[], [_row()]], ids=["no rows", "all optional columns null"])
def test_null_columns_keep_their_types(storage: Storage, rows: list[ManifestRow]) -> None:
    write_manifest(storage, "t2i", 0, 1, rows)
    table = pq.read_table(pa.BufferReader(storage.read(layout.manifest_key("t2i", 0, 1))))
    assert table.schema.equals(MANIFEST_SCHEMA, check_metadata=True)
    assert table.num_rows == len(rows)


def test_others_read_manifests_without_this_project(storage: Storage) -> None:
    write_manifest(storage, "t2i", 0, 1, [_row(started_at=datetime(2026, 1, 2, 3, 4, 5, 6, UTC), fps=8.0)])
    path = storage.join(layout.manifest_key("t2i", 0, 1))
    assert path.endswith("manifests/t2i/shard-00000.attempt-001.parquet")
    assert pd.read_parquet(path)["seed"].tolist() == [2**40]
    found = duckdb.sql(f"select status, fps, error_type from '{storage.uri}/manifests/*/*.parquet'").fetchall()
    assert found == [("succeeded", 8.0, None)]


def test_rows_come_back_as_they_were(storage: Storage) -> None:
    row = _row(
        artifact_uri="a.png",
        size_bytes=2**40,
        fps=8.0,
        started_at=datetime(2026, 1, 2, 3, 4, 5, 6, UTC),
        extra='{"k":1}',
    )
    write_manifest(storage, "t2i", 0, 1, [row])
    assert read_manifests(storage) == [row]
    write_record(storage, row)
    assert read_records(storage, list_records(storage, "t2i", 0)) == [row]


def test_the_latest_attempt_of_each_clip_counts(storage: Storage) -> None:
    assert last_attempt(storage, "t2i", 0) == 0
    first = [_row(clip_id=name, status="failed") for name in ("a", "b", "c")]
    write_manifest(storage, "t2i", 0, 1, first)
    write_manifest(storage, "t2i", 0, 2, [_row(clip_id="b", attempt=2)])
    write_manifest(storage, "t2i", 0, 10, [_row(clip_id="c", attempt=10)])
    write_manifest(storage, "t2i", 1, 1, [_row(clip_id="d", shard_id=1)])
    write_manifest(storage, "vfi", 0, 1, [_row(clip_id="a", stage="vfi")])
    found = [(row.stage, row.clip_id, row.attempt) for row in read_manifests(storage)]
    assert found == [("t2i", "a", 1), ("t2i", "b", 2), ("t2i", "c", 10), ("t2i", "d", 1), ("vfi", "a", 1)]
    assert [row.clip_id for row in read_manifests(storage, "t2i", 1)] == ["d"]
    assert read_manifests(storage, "i2v") == []
    assert (last_attempt(storage, "t2i", 0), last_attempt(storage, "t2i", 1), last_attempt(storage, "i2v", 0)) == (
        10,
        1,
        0,
    )


def test_journal_records_are_latest_per_clip_and_torn_ones_are_none(
    storage: Storage, caplog: pytest.LogCaptureFixture
) -> None:
    write_record(storage, _row(clip_id="b", status="failed"))
    write_record(storage, _row(clip_id="b", attempt=2))
    write_record(storage, _row(clip_id="a"))
    write_record(storage, _row(clip_id="other", shard_id=1))
    storage.write(layout.journal_key("t2i", 0, 1, "torn"), b'{"run_id": "r", "cl')
    assert [(row.clip_id, row.attempt) for row in read_records(storage, list_records(storage, "t2i", 0))] == [
        ("a", 1),
        ("b", 2),
    ]
    assert "torn.json" in caplog.text
    assert list_records(storage, "i2v", 0) == []
    assert len(list_records(storage)) == 5


def test_artifacts_of_different_bytes_have_different_keys() -> None:
    assert layout.artifact_key("t2i", "c0", "ab" * 32, ".png") == "artifacts/t2i/c0.abababababababab.png"
    assert layout.artifact_key("t2i", "c0", "cd" * 32, ".png") != layout.artifact_key("t2i", "c0", "ab" * 32, ".png")


def test_plans_keep_clips_and_their_order(storage: Storage) -> None:
    clips = [Clip(f"c{index}", "ä cat", "blur", index, extra={"topic": [1, None, "x"]}) for index in range(5)]
    shards = Shards.cut(clips, 2)
    assert [len(shard) for shard in shards] == [2, 2, 1]
    write_plan(storage, shards)
    assert list_shards(storage) == [0, 1, 2]
    assert [read_plan(storage, shard_id) for shard_id in range(3)] == list(shards)
    before = storage.read(layout.plan_key(0))
    write_plan(storage, shards)
    assert storage.read(layout.plan_key(0)) == before


def test_the_run_record_comes_back_without_secrets(storage: Storage) -> None:
    clips = [clip_of_prompt(text, 1) for text in ("a cat", "a dog", "a fish")]
    record = new_run_record(
        "r1", load_config(), {"t2i": "00"}, "https://me:passw0rd@host/p.csv?token=secret", Shards.cut(clips, 2)
    )
    write_run_json(storage, record)
    assert read_run_json(storage) == record
    assert (record.num_clips, record.num_shards, record.config_hash) == (3, 2, load_config().hash())
    assert (
        record.clips_hash == ClipTable.of(clips[::-1]).hash() == ids.short_hash(sorted(clip.clip_id for clip in clips))
    )
    text = storage.read("run.json").decode()
    assert "https://host/p.csv" in text
    assert "secret" not in text
    assert "passw0rd" not in text


def test_a_place_without_a_readable_run_says_so(storage: Storage) -> None:
    with pytest.raises(RunError, match="There is no run at"):
        read_run_json(storage)
    storage.write("run.json", b'{"run_id": "r"}')
    with pytest.raises(RunError, match=r"run\.json"):
        read_run_json(storage)


@pytest.mark.parametrize("run_id", ["", "a/b", "..", ".hidden", "a b", "x" * 101])
def test_a_run_id_must_name_one_folder(run_id: str) -> None:
    assert layout.check_run_id("night-2026.11_22") == "night-2026.11_22"
    with pytest.raises(InputError):
        layout.check_run_id(run_id)
