"""The audit finds each kind of damage to a finished run, and nothing on an undamaged one."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from magicvideo_core.errors import RunError
from magicvideo_core.manifest.audit import Audit, audit_run
from magicvideo_core.manifest.journal import write_record
from magicvideo_core.manifest.table import read_manifests, write_manifest
from magicvideo_core.report import write_report
from magicvideo_core.storage import Storage


@pytest.fixture
def run(rendered_run: Storage, tmp_path: Path) -> Storage:
    """A copy of the finished run, to be damaged."""
    shutil.copytree(rendered_run.uri, tmp_path / "run")
    return Storage(tmp_path / "run")


def an_artifact(run: Storage) -> str:
    return run.list("artifacts/i2v")[0]


def key_of(uri: str | None) -> str:
    return "artifacts/" + str(uri).rpartition("/artifacts/")[2]


def delete(run: Storage) -> str:
    key = an_artifact(run)
    run.delete(key)
    return f"missing: {key}"


def truncate(run: Storage) -> str:
    key, data = an_artifact(run), run.read(an_artifact(run))
    run.write(key, data[:-5])
    return f"different: {key}: {len(data) - 5} bytes instead of {len(data)}"


def flip_a_bit(run: Storage) -> str:
    key, data = an_artifact(run), bytearray(run.read(an_artifact(run)))
    data[len(data) // 2] ^= 4
    run.write(key, bytes(data))
    return f"different: {key}: {len(data)} bytes as expected, sha256 "


def add_a_foreign_object(run: Storage) -> str:
    run.write("artifacts/i2v/notes.txt", b"?")
    return "extra: artifacts/i2v/notes.txt"


def add_a_manifest_of_no_planned_shard(run: Storage) -> str:
    write_manifest(run, "i2v", 7, 1, [])
    return "extra: manifests/i2v/shard-00007.attempt-001.parquet"


def tear_a_manifest(run: Storage) -> str:
    key = "manifests/vfi/shard-00000.attempt-001.parquet"
    run.write(key, run.read(key)[:100])
    return f"unreadable: {run.join(key)}"


def lose_a_plan(run: Storage) -> str:
    run.delete("plan/shard-00001.parquet")
    return f"unreadable: {run.join('plan/shard-00001.parquet')}: not there"


def lose_a_manifest(run: Storage) -> str:
    run.delete("manifests/vfi/shard-00001.attempt-001.parquet")
    return "without a row: clip "


def double_a_row(run: Storage) -> str:
    row = read_manifests(run, "t2i")[0]
    write_manifest(run, "t2i", 0, 2, [row])
    return f"doubled: clip {row.clip_id} in stage t2i, attempt 1"


def record_a_clip_of_no_plan(run: Storage) -> str:
    row = read_manifests(run, "t2i")[-1]
    write_record(run, replace(row, clip_id="f" * 16, attempt=2, status="failed", artifact_uri=None))
    return f"not planned: clip {'f' * 16} in stage t2i"


def test_an_undamaged_run_is_found_to_be_so(run: Storage) -> None:
    write_report(run)
    run.write("journal/sessions/00001.json", b"{}")
    run.write("report/evaluation-vfi.json", b"{}")
    audit = audit_run(run)
    assert (audit.ok, audit.lines(), audit.num_artifacts) == (True, [], 8)
    assert audit.num_bytes == sum(run.list_sizes("artifacts").values())
    assert audit.to_json()["ok"]


@pytest.mark.parametrize(
    "damage",
    [
        delete,
        truncate,
        flip_a_bit,
        add_a_foreign_object,
        add_a_manifest_of_no_planned_shard,
        tear_a_manifest,
        lose_a_plan,
        lose_a_manifest,
        double_a_row,
        record_a_clip_of_no_plan,
    ],
)
def test_each_kind_of_damage_is_named(run: Storage, damage: Callable[[Storage], str]) -> None:
    expected = damage(run)
    audit: Audit = audit_run(run)
    assert not audit.ok
    assert any(line.startswith(expected) for line in audit.lines()), audit.lines()


def test_damage_to_what_a_later_attempt_replaced_is_no_loss(run: Storage) -> None:
    row = next(row for row in read_manifests(run, "vfi") if row.status == "succeeded")
    new_key = key_of(row.artifact_uri).replace(".mp4", "-new.mp4")
    stored = run.write(new_key, b"other bytes")
    changes = {"artifact_uri": stored.uri, "sha256": stored.sha256, "size_bytes": stored.size_bytes}
    write_manifest(run, "vfi", row.shard_id, 2, [replace(row, attempt=2, **changes)])
    assert audit_run(run).ok
    run.delete(key_of(row.artifact_uri))
    assert audit_run(run).ok


def test_there_must_be_a_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="There is no run"):
        audit_run(Storage(tmp_path))
