"""What nothing needs is found and deleted, and nothing else: a run is verified and its manifests read the same after it."""

import os
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest

from flows.cli import run_command
from magicvideo_core.errors import RunError
from magicvideo_core.manifest import session as session_module
from magicvideo_core.manifest.artifacts import artifact_key_of
from magicvideo_core.manifest.audit import audit_run
from magicvideo_core.manifest.durable import read_latest
from magicvideo_core.manifest.garbage import collect_garbage, find_garbage
from magicvideo_core.manifest.journal import write_record
from magicvideo_core.manifest.layout import artifact_key, session_key
from magicvideo_core.manifest.schema import ManifestRow
from magicvideo_core.manifest.session import open_session
from magicvideo_core.manifest.table import read_manifests, write_manifest
from magicvideo_core.storage import Storage

NEW = "abcdef0123456789"


@pytest.fixture(params=["local", "s3"])
def run(request: pytest.FixtureRequest, rendered_run: Storage, tmp_path: Path) -> Storage:
    """A copy of the finished run, on a disk and on S3."""
    if request.param == "local":
        shutil.copytree(rendered_run.uri, tmp_path / "run")
        return Storage(tmp_path / "run")
    storage = Storage(request.getfixturevalue("s3").uri(f"{tmp_path.name}/run"))
    for key in rendered_run.list():
        storage.write(key, rendered_run.read(key))
    return storage


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that does not create conditionally is waited for two seconds at every session."""
    monkeypatch.setattr(session_module, "_SETTLE_S", 0.0)


def done(run: Storage, stage: str) -> ManifestRow:
    return next(row for row in read_manifests(run, stage) if row.status == "succeeded")


def make_again(run: Storage, row: ManifestRow, attempt: int = 2) -> ManifestRow:
    """Give a clip other bytes under a later attempt, as where its artifact was damaged; returns its new row."""
    stored = run.write(artifact_key(row.stage, row.clip_id, NEW, ".mkv"), b"other bytes")
    changes = {"artifact_uri": stored.uri, "sha256": stored.sha256, "size_bytes": stored.size_bytes}
    return replace(row, attempt=attempt, **changes)


def test_a_clean_run_has_none(run: Storage) -> None:
    assert find_garbage(run).keys() == [] == find_garbage(run).kept_back


def test_each_kind_is_found_deleted_and_missed_by_nobody(run: Storage, capsys: pytest.CaptureFixture[str]) -> None:
    row = done(run, "i2v")
    orphan = artifact_key("i2v", "0" * 16, NEW, ".mkv")
    run.write(orphan, b"never recorded")
    run.write("artifacts/i2v/notes.txt", b"a person's own")
    # Every clip of the shard once more: the first attempt says nothing any more.
    shard = [each for each in read_manifests(run, "i2v") if each.shard_id == row.shard_id]
    again = [make_again(run, each) if each == row else replace(each, attempt=2) for each in shard]
    write_manifest(run, "i2v", row.shard_id, 2, again)
    write_record(run, again[0])
    old = artifact_key_of(row)
    before = read_latest(run)

    found = find_garbage(run)
    keys = found.keys()
    assert list(found.orphans) == [orphan]
    assert set(found.superseded) == {old, f"manifests/i2v/shard-{row.shard_id:05d}.attempt-001.parquet"}
    assert [key.rpartition("/")[2] for key in found.stale_records] == [f"{again[0].clip_id}.json"]
    assert found.kept_back == ["artifacts/i2v/notes.txt: not a name that this project gives"]
    assert run_command(["gc", run.uri]) == 0
    printed = capsys.readouterr().out
    assert f"orphans: {orphan}" in printed and "4 objects, " in printed and "can go" in printed
    assert all(run.exists(key) for key in keys), "a dry run deletes nothing"

    assert run_command(["gc", run.uri, "--delete"]) == 0
    assert "4 objects" in capsys.readouterr().out
    assert not any(run.exists(key) for key in keys) and run.exists("artifacts/i2v/notes.txt")
    assert find_garbage(run).keys() == [] and read_latest(run) == before
    run.delete("artifacts/i2v/notes.txt")
    assert audit_run(run).ok


def test_what_still_counts_stays(run: Storage) -> None:
    row = done(run, "vfi")
    # One clip of two made again: the first manifest still speaks for the other one.
    write_manifest(run, "vfi", row.shard_id, 2, [make_again(run, row)])
    found = find_garbage(run)
    assert list(found.superseded) == [artifact_key_of(row)] and not found.stale_records
    # A record above the last manifest is the clip's only row.
    write_record(run, make_again(run, row, attempt=3))
    assert find_garbage(run).stale_records == {}


def test_of_a_stage_with_a_torn_manifest_nothing_is_touched(run: Storage) -> None:
    key = "manifests/i2v/shard-00000.attempt-001.parquet"
    run.write(key, run.read(key)[:50])
    run.write(artifact_key("t2i", "0" * 16, NEW, ".png"), b"orphan")
    found = collect_garbage(run)
    assert found.keys() == [artifact_key("t2i", "0" * 16, NEW, ".png")]
    assert any("stage i2v" in line for line in found.kept_back)
    assert len(run.list("artifacts/i2v")) == 2


def test_a_driver_that_works_is_not_disturbed(
    run: Storage, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(session_module, "HEARTBEAT_S", 0.2)
    monkeypatch.setattr(session_module, "_WATCH_EVERY_S", 0.1)
    orphan = artifact_key("i2v", "0" * 16, NEW, ".mkv")
    run.write(orphan, b"in flight")
    session = open_session(run, lambda error: None)
    assert run_command(["gc", run.uri]) == 0
    assert "A driver may be working on this run" in capsys.readouterr().out
    assert run_command(["gc", run.uri, "--delete"]) == 2
    assert "is being worked on by" in capsys.readouterr().err and run.exists(orphan)
    session.close()
    assert list(collect_garbage(run).orphans) == [orphan] and not run.exists(orphan)
    assert run.exists(session_key(2)), "who cleans up holds the run meanwhile"


def test_unfinished_writes_go_when_they_are_old(rendered_run: Storage, tmp_path: Path) -> None:
    shutil.copytree(rendered_run.uri, tmp_path / "run")
    for name, age_s in (("old", 7200), ("new", 0)):
        path = tmp_path / "run" / "artifacts" / "vfi" / f".part-{name}"
        path.write_bytes(b"half")
        os.utime(path, (time.time() - age_s,) * 2)
    assert list(collect_garbage(Storage(tmp_path / "run")).unfinished) == ["artifacts/vfi/.part-old"]
    assert sorted(os.listdir(tmp_path / "run" / "artifacts" / "vfi"))[0] == ".part-new"


def test_there_must_be_a_run(tmp_path: Path) -> None:
    for call in (find_garbage, collect_garbage):
        with pytest.raises(RunError, match="There is no run"):
            call(Storage(tmp_path))
    assert os.listdir(tmp_path) == []
