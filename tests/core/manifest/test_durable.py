"""What counts as done: late journal records, torn manifests and plans, rows of either kind alone, rows skipped in vain."""

import io
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from magicvideo_core.errors import UnreadableError
from magicvideo_core.manifest import layout
from magicvideo_core.manifest.durable import read_rows, read_shard
from magicvideo_core.manifest.journal import write_record
from magicvideo_core.manifest.plan import read_plan, read_shards, write_plan
from magicvideo_core.manifest.schema import MANIFEST_SCHEMA, ManifestRow
from magicvideo_core.manifest.table import list_manifests, read_manifest, read_manifests, write_manifest
from magicvideo_core.prompts import clip_of_prompt
from magicvideo_core.storage import Storage


def _row(clip_id: str, attempt: int = 1, status: str = "succeeded", **changes: Any) -> ManifestRow:
    values = {"run_id": "r", "shard_id": 0, "stage": "t2i", "prompt": "a cat", "seed": 1}
    return ManifestRow(**{**values, "clip_id": clip_id, "attempt": attempt, "status": status, **changes})


def _tear(storage: Storage, key: str, keep: float = 0.6) -> None:
    data = storage.read(key)
    storage.write(key, data[: int(len(data) * keep)])


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(tmp_path / "run")


def test_a_record_counts_only_above_the_latest_manifest_of_its_shard(storage: Storage) -> None:
    write_manifest(storage, "t2i", 0, 1, [_row("a"), _row("b", status="failed")])
    # Of an actor that nobody waited for any more, of the attempt under way, and of a shard without a manifest.
    write_record(storage, _row("b"))
    write_record(storage, _row("c", attempt=2))
    write_record(storage, _row("d", shard_id=1))
    found = read_shard(storage, "t2i", 0)
    assert {clip_id: (row.attempt, row.status) for clip_id, row in found.rows.items()} == {
        "a": (1, "succeeded"),
        "b": (1, "failed"),
        "c": (2, "succeeded"),
    }
    assert (found.in_manifests, found.next_attempt, found.torn) == ({"a", "b"}, 2, ())
    assert [row.clip_id for row in read_rows(storage, ["t2i"])] == ["a", "b", "c", "d"]


@pytest.mark.parametrize("damage", ["torn", "empty", "a flipped bit"])
def test_a_torn_manifest_is_absent_with_one_warning(
    storage: Storage, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    write_manifest(storage, "t2i", 0, 1, [_row("a")])
    write_manifest(storage, "t2i", 1, 1, [_row("b", shard_id=1)])
    key = layout.manifest_key("t2i", 0, 1)
    data = bytearray(storage.read(key))
    data[20] ^= 1
    storage.write(key, {"torn": bytes(data[:-9]), "empty": b"", "a flipped bit": bytes(data)}[damage])
    write_record(storage, _row("a"))
    found = read_shard(storage, "t2i", 0)
    # The record that the manifest would have repeated is still there.
    assert (set(found.rows), found.in_manifests, found.next_attempt, found.torn) == ({"a"}, set(), 2, (key,))
    assert [row.clip_id for row in read_manifests(storage)] == ["b"]
    assert caplog.text.count("is not readable and counts as missing") == 1
    with pytest.raises(UnreadableError, match=r"shard-00000\.attempt-001\.parquet"):
        read_manifest(storage, list_manifests(storage, "t2i", 0)[0])


def test_what_a_torn_manifest_may_have_replaced_does_not_count(storage: Storage) -> None:
    write_manifest(storage, "t2i", 0, 1, [_row("a"), _row("b", status="failed"), _row("c", status="skipped")])
    write_manifest(storage, "t2i", 0, 2, [_row("b", attempt=2)])
    _tear(storage, layout.manifest_key("t2i", 0, 2))
    found = read_shard(storage, "t2i", 0)
    assert (set(found.rows), found.next_attempt) == ({"a"}, 3)
    write_manifest(storage, "t2i", 0, 3, [_row("b", attempt=3), _row("c", attempt=3, status="skipped")])
    assert set(read_shard(storage, "t2i", 0).rows) == {"a", "b", "c"}


def test_a_row_skipped_for_no_reason_any_more_does_not_count(storage: Storage) -> None:
    stages = ["t2i", "i2v", "v2v"]
    write_manifest(storage, "t2i", 0, 1, [_row("a", status="failed"), _row("b", status="failed")])
    for stage in stages[1:]:
        write_manifest(storage, stage, 0, 1, [_row(clip_id, status="skipped", stage=stage) for clip_id in "ab"])
    assert len(read_rows(storage, stages)) == 6
    write_manifest(storage, "t2i", 0, 2, [_row("a", attempt=2)])
    # v2v waits for i2v, which is yet to come.
    found = [(row.stage, row.clip_id, row.status) for row in read_rows(storage, stages)]
    assert found == [
        ("t2i", "a", "succeeded"),
        ("t2i", "b", "failed"),
        ("i2v", "b", "skipped"),
        ("v2v", "b", "skipped"),
    ]


def test_a_torn_plan_is_absent(storage: Storage, caplog: pytest.LogCaptureFixture) -> None:
    shards = [[clip_of_prompt("a cat", 1)], [clip_of_prompt("a dog", 2)]]
    write_plan(storage, shards)
    _tear(storage, layout.plan_key(0))
    assert read_shards(storage) == {1: shards[1]}
    assert read_shards(storage) == {1: shards[1]}
    assert caplog.text.count("plan is not readable") == 1
    with pytest.raises(UnreadableError):
        read_plan(storage, 0)
    write_plan(storage, shards, [0])
    assert read_shards(storage) == dict(enumerate(shards))


def test_manifests_with_only_successes_only_errors_and_nothing_are_read_together(storage: Storage) -> None:
    good = _row("a", artifact_uri="a.png", sha256="00", size_bytes=1, width=8, height=8, num_frames=1, fps=8.0)
    bad = _row("b", status="failed", stage="i2v", error_type="GateError", error_message="black")
    write_manifest(storage, "t2i", 0, 1, [good])
    write_manifest(storage, "i2v", 0, 1, [bad])
    write_manifest(storage, "v2v", 0, 1, [])
    schemas = [pq.read_schema(io.BytesIO(storage.read(key))) for key in storage.list("manifests")]
    assert all(schema.equals(MANIFEST_SCHEMA, check_metadata=True) for schema in schemas)
    folder = storage.join("manifests")
    frame = pd.read_parquet(folder).sort_values("clip_id")
    assert frame[["clip_id", "error_type"]].fillna("").values.tolist() == [["a", ""], ["b", "GateError"]]
    query = f"select clip_id, size_bytes, error_type from '{folder}/*/*.parquet' order by clip_id"
    assert duckdb.sql(query).fetchall() == [("a", 1, None), ("b", None, "GateError")]


def test_manifests_of_the_version_before_are_read(storage: Storage) -> None:
    table = pa.Table.from_pylist([_row("a").to_dict()], schema=MANIFEST_SCHEMA).drop_columns(["reused_from"])
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    storage.write(layout.manifest_key("t2i", 0, 1), buffer.getvalue())
    assert read_manifests(storage) == [_row("a")]
