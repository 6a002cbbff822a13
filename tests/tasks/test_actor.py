"""A stage actor in this process: what it makes, what it checks before, and what each error of its own means."""

from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from magicvideo_core.clips import Clip
from magicvideo_core.config import RunConfig, load_config
from magicvideo_core.errors import StorageUnavailableError
from magicvideo_core.manifest.journal import list_records
from magicvideo_core.manifest.schema import ManifestRow
from magicvideo_core.media import decode_image
from magicvideo_core.prompts import clip_of_prompt
from magicvideo_core.stages.base import StageItem
from magicvideo_core.storage import Storage, StoredObject, read_uri
from tasks.pools.actor import StageActor
from tasks.pools.clip_work import ClipWork, Raised, StageJob
from tasks.pools.failures import Action
from tasks.pools.inputs import Read, ReadAhead

CLIPS = [clip_of_prompt(prompt, seed) for seed, prompt in enumerate(["plain one", "a bad one", "plain two"])]


def loaded(folder: Path, config: RunConfig, stage: str = "t2i") -> StageActor:
    actor = StageActor(StageJob(stage, config, Storage(folder), "run", "recipe"), "actor")
    actor.load()
    return actor


def raised(actor: StageActor, work: ClipWork) -> Raised:
    """Run one clip that must not get a row, nor a record."""
    [result] = actor.run([work])
    assert isinstance(result, Raised)
    assert (result.clip_id, result.effort.actor_id, result.effort.device) == (work.clip.clip_id, "actor", "cpu")
    return result


@pytest.fixture
def reference(fake_overrides: tuple[str, ...], tmp_path: Path) -> StoredObject:
    """What t2i made of the first clip."""
    [row] = loaded(tmp_path, load_config(overrides=fake_overrides)).run([ClipWork(CLIPS[0], 0, 1)])
    assert isinstance(row, ManifestRow)
    return StoredObject(str(row.artifact_uri), str(row.sha256), int(row.size_bytes or 0))


def test_it_makes_what_the_library_makes(fake_overrides: tuple[str, ...], tmp_path: Path) -> None:
    actor = loaded(tmp_path, load_config(overrides=fake_overrides))
    first, second = (actor.run([ClipWork(clip, 0, 1) for clip in clips]) for clips in (CLIPS, CLIPS[::-1]))
    actor.close()
    assert [row.clip_id for row in first] == [clip.clip_id for clip in CLIPS]
    hashes = {row.clip_id: row.sha256 for row in first if isinstance(row, ManifestRow)}
    assert hashes == {row.clip_id: row.sha256 for row in second if isinstance(row, ManifestRow)}
    for row in first:
        assert isinstance(row, ManifestRow) and row.artifact_uri is not None
        assert decode_image(read_uri(row.artifact_uri)).shape == (16, 16, 3)
        assert (row.width, row.height, row.num_frames, row.fps, row.device) == (16, 16, 1, None, "cpu")


@pytest.mark.parametrize("harm", ["deleted", "truncated", "flipped"])
def test_what_it_reads_is_checked_against_its_row(
    fake_overrides: tuple[str, ...], tmp_path: Path, reference: StoredObject, harm: str
) -> None:
    actor = loaded(tmp_path, load_config(overrides=fake_overrides), "i2v")
    work = ClipWork(CLIPS[0], 0, 1, {"t2i": reference})
    [row] = actor.run([work])
    assert isinstance(row, ManifestRow) and row.status == "succeeded"
    path = Path(reference.uri)
    data = path.read_bytes()
    if harm == "deleted":
        path.unlink()
    else:
        path.write_bytes(data[:-1] if harm == "truncated" else data[:-1] + bytes([data[-1] ^ 1]))
    result = raised(actor, work)
    assert (result.action, result.lost_stage) == (Action.REMAKE_UPSTREAM, "t2i")
    assert result.reason.error_type == "UpstreamLostError"
    assert path.name in result.reason.error_message
    assert {"deleted": "is gone", "truncated": "bytes instead of", "flipped": "sha256"}[
        harm
    ] in result.reason.error_message


@pytest.mark.parametrize("given", ["missing", "folder", "text"])
def test_an_image_that_the_prompt_names_wrongly_fails_at_once(
    fake_overrides: tuple[str, ...], tmp_path: Path, given: str
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "text").write_text("no image")
    clip = Clip("a", "one", image=str(tmp_path / given))
    result = raised(loaded(tmp_path / "run", load_config(overrides=fake_overrides)), ClipWork(clip, 0, 1))
    assert (result.action, result.reason.error_type) == (Action.FAIL_CLIP, "GivenMediaError")
    assert given in result.reason.error_message


@pytest.mark.parametrize("what", ["artifacts", "journal"])
def test_clips_that_cannot_be_stored_together_are_stored_one_by_one(
    fake_overrides: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    def write(storage: Storage, key: str, data: bytes) -> StoredObject:
        if key.startswith(what) and CLIPS[1].clip_id in key:
            raise StorageUnavailableError("503")
        return original(storage, key, data)

    def write_together(storage: Storage, objects: list[tuple[str, bytes]]) -> list[StoredObject]:
        return [write(storage, *each) for each in objects]

    original: Any = Storage.write
    actor = loaded(tmp_path, load_config(overrides=fake_overrides))
    monkeypatch.setattr(Storage, "write", write)
    monkeypatch.setattr(Storage, "write_together", write_together)
    first, second, third = actor.run([ClipWork(clip, 0, 1) for clip in CLIPS])
    assert isinstance(second, Raised) and second.action is Action.AWAIT_STORAGE
    for row, clip in ((first, CLIPS[0]), (third, CLIPS[2])):
        assert isinstance(row, ManifestRow) and (row.status, row.clip_id) == ("succeeded", clip.clip_id)
    assert {key.clip_id for key in list_records(Storage(tmp_path), "t2i", 0)} == {CLIPS[0].clip_id, CLIPS[2].clip_id}


@pytest.mark.parametrize("what", ["artifact", "record"])
@pytest.mark.parametrize("error", [StorageUnavailableError("503"), PermissionError("the token has expired")])
def test_trouble_with_storage_is_not_the_clips_fault(
    fake_overrides: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, error: Exception
) -> None:
    def write(storage: Storage, key: str, data: bytes) -> StoredObject:
        if key.startswith("artifacts" if what == "artifact" else "journal"):
            raise error
        return original(storage, key, data)

    original: Any = Storage.write
    actor = loaded(tmp_path, load_config(overrides=fake_overrides))
    monkeypatch.setattr(Storage, "write", write)
    result = raised(actor, ClipWork(CLIPS[0], 0, 1))
    assert (result.action, result.reason.error_type) == (Action.AWAIT_STORAGE, "StorageUnavailableError")


@pytest.mark.parametrize(
    ("fault", "action", "error_type"),
    [
        ("raise", Action.RETRY_CLIP, "RuntimeError"),
        ("clip_error", Action.RETRY_CLIP, "GateError"),
        ("nan", Action.RETRY_CLIP, "GateError"),
        ("oom", Action.REPLACE_ACTOR, "MemoryError"),
    ],
)
def test_what_the_errors_of_a_stage_mean(
    fake_overrides: tuple[str, ...], tmp_path: Path, fault: str, action: Action, error_type: str
) -> None:
    faults = [f"t2i.fake.faults.bad={fault}", "t2i.fake.oom_limit_mib=64"]
    actor = loaded(tmp_path, load_config(overrides=[*fake_overrides, *faults]))
    result = raised(actor, ClipWork(CLIPS[1], 0, 1))
    assert (result.action, result.reason.error_type) == (action, error_type)
    assert "Traceback" in str(result.reason.error_traceback)
    assert not list_records(Storage(tmp_path), "t2i", 0)
    [row] = actor.run([ClipWork(CLIPS[0], 0, 1)])
    assert isinstance(row, ManifestRow)


def test_what_does_not_decode_is_not_stored(
    fake_overrides: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.pools.storing.encode_png", lambda frame: b"no image")
    result = raised(loaded(tmp_path, load_config(overrides=fake_overrides)), ClipWork(CLIPS[0], 0, 1))
    assert (result.action, result.reason.error_type) == (Action.RETRY_CLIP, "GateError")
    assert "gate.decodable" in result.reason.error_message
    assert not Storage(tmp_path).list("artifacts")


def test_what_was_read_ahead_is_used_once_and_only_for_the_same_inputs() -> None:
    def read(work: ClipWork) -> Read:
        seen.append(work.clip.prompt)
        if work.clip is CLIPS[1]:
            raise StorageUnavailableError("as the test asked")
        return Read(StageItem(work.clip), 0.1)

    seen: list[str] = []
    ahead = ReadAhead(read)
    first, second, third = (ClipWork(clip, 0, 1, {"t2i": StoredObject("uri", "sha", 1)}) for clip in CLIPS)
    # The next clip is asked for before the one that was read has gone to the device.
    ahead.read(first)
    ahead.read(second)
    assert ahead.take([first])[CLIPS[0].clip_id].result().seconds == 0.1
    assert isinstance(ahead.take([second])[CLIPS[1].clip_id].exception(), StorageUnavailableError)
    assert ahead.take([first]) == {}
    ahead.read(third)
    assert ahead.take([ClipWork(CLIPS[2], 0, 2, {"t2i": StoredObject("uri", "other", 1)})]) == {}
    assert seen == [clip.prompt for clip in CLIPS]


def test_a_gpu_is_charged_for_the_device_alone_and_a_share_for_the_whole_of_it(
    fake_overrides: tuple[str, ...], tmp_path: Path, reference: StoredObject
) -> None:
    config = load_config(overrides=[*fake_overrides, "i2v.pool.num_gpus=0.25", "i2v.fake.sleep_s=0.2"])
    actor = loaded(tmp_path, config, "i2v")
    work = ClipWork(CLIPS[0], 0, 1, {"t2i": reference})
    future: Future[Read] = Future()
    future.set_result(Read(actor.read(work).inputs, 5.0))
    [row] = actor.finish([actor.compute([work], {CLIPS[0].clip_id: future})])
    assert isinstance(row, ManifestRow) and row.gpu_s is not None and row.duration_s is not None
    assert 0.2 <= row.gpu_s < 1.0
    assert row.duration_s > 5.0 + row.gpu_s
