"""The generate flow end to end, on a real Prefect API and a real Ray, with the fake backend in every stage."""

import json
import os
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from flows.generate import generate
from flows.launch import run_generate
from flows.waves import in_waves
from magicvideo_core.errors import GateError, RunError, RunStoppedError, StorageUnavailableError
from magicvideo_core.manifest.journal import write_record
from magicvideo_core.manifest.layout import manifest_key, session_key
from magicvideo_core.manifest.schema import MANIFEST_SCHEMA, ManifestRow
from magicvideo_core.manifest.session import FoundDone, open_session, read_sessions
from magicvideo_core.manifest.table import read_manifests
from magicvideo_core.media import decode_video, encode_lossless, encode_png
from magicvideo_core.storage import Storage, read_uri
from tasks.engines import engine_of
from tasks.progress import ProgressBoard
from tasks.resolve import RunRequest, resolve_run
from tasks.retries import RETRY_TRANSIENT
from tasks.runtime import Engine
from tasks.status import run_status

pytestmark = pytest.mark.usefixtures("local_ray", "prefect_api")
STAGES = ("t2i", "i2v", "v2v", "vfi")
PROMPTS = ["one", "two", "three", "four bad", "five"]


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Five prompts, of which one brings an image and one a video along."""
    folder = tmp_path_factory.mktemp("prompts")
    picture = np.full((20, 30, 3), (200, 30, 30), np.uint8)
    (folder / "given.png").write_bytes(encode_png(picture))
    (folder / "given.mkv").write_bytes(encode_lossless(np.stack([picture // (1 + t) for t in range(8)]), 8.0))
    given = {"one": {"image": str(folder / "given.png")}, "two": {"video": str(folder / "given.mkv")}}
    rows = [{"prompt": prompt, "seed": 7, "note": prompt.upper(), **given.get(prompt, {})} for prompt in PROMPTS]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder / "prompts.jsonl")


@pytest.fixture(scope="module")
def undisturbed(prompts: str, fake_overrides: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Storage:
    """A finished run in shards of two, in which one clip fails at i2v."""
    output = tmp_path_factory.mktemp("undisturbed")
    summary = generate(prompts, str(output), overrides=faulty(fake_overrides), run_id="run", shard_size=2)
    assert summary["run_uri"] == f"{output}/run"
    assert not summary["succeeded"]
    return Storage(output / "run")


def faulty(overrides: tuple[str, ...]) -> tuple[str, ...]:
    return (*overrides, "i2v.fake.faults.bad=clip_error")


def hold_i2v(folder: Path) -> tuple[Path, str]:
    """Return a file that holds i2v's clips while it exists, and the override that says so."""
    hold_file = folder / "hold"
    hold_file.touch()
    return hold_file, f"i2v.fake.hold_file={hold_file}"


def outcome(storage: Storage) -> dict[tuple[str, str], tuple[str, str | None]]:
    """Return status and hash per (stage, clip), after checking that no row is doubled and every hash is right."""
    rows = read_manifests(storage)
    assert max(Counter((row.stage, row.clip_id) for row in rows).values()) == 1
    return {(row.stage, row.clip_id): (row.status, row.sha256) for row in rows}


def not_made(storage: Storage) -> set[tuple[str, str]]:
    """Return the (stage, clip) that failed or were skipped."""
    return {key for key, (status, _) in outcome(storage).items() if status in ("failed", "skipped")}


def test_every_clip_has_one_row_per_stage_and_a_reason_where_it_failed(undisturbed: Storage) -> None:
    rows = {(row.stage, row.prompt): row for row in read_manifests(undisturbed)}
    assert len(rows) == len(STAGES) * len(PROMPTS)
    bad = {stage: rows[stage, "four bad"] for stage in STAGES}
    assert [bad[stage].status for stage in STAGES] == ["succeeded", "quarantined", "skipped", "skipped"]
    assert [bad[stage].error_type for stage in STAGES] == [None, "GateError", "UpstreamFailed", "UpstreamFailed"]
    good = [row for row in rows.values() if row.prompt != "four bad"]
    assert {row.status for row in good} == {"succeeded"}
    assert {json.loads(row.extra)["note"] for row in rows.values()} == {prompt.upper() for prompt in PROMPTS}
    for row in good:
        if row.stage == "vfi":
            video = decode_video(read_uri(str(row.artifact_uri)))
            assert (video.frames_THWC_u8.shape, video.fps) == ((10, 16, 16, 3), 24.0)


def test_what_a_run_leaves_in_storage(undisturbed: Storage) -> None:
    keys = undisturbed.list()
    folders = Counter(key.split("/")[0] for key in keys)
    written = {"run.json": 1, "plan": 3, "artifacts": 5 + 3 * 4, "manifests": 12, "journal": 1}
    # As many logs as there were actors, and one of the driver.
    assert folders == written | {name: folders[name] for name in ("report", "logs")}
    assert folders["logs"] > len(STAGES)
    assert [record.ended_at is not None for record in read_sessions(undisturbed)] == [True]
    assert "report/index.html" in keys
    assert "manifests/vfi/shard-00002.attempt-001.parquet" in keys
    table = pq.read_table(undisturbed.join("manifests/vfi/shard-00002.attempt-001.parquet"))
    assert table.schema.names == MANIFEST_SCHEMA.names
    status = run_status(undisturbed)
    assert (status["finished"], status["left"]) == (True, 0)
    assert status["stages"]["v2v"] | {"seconds_per_clip": None} == {
        "pending": 0,
        "running": 0,
        "succeeded": 4,
        "failed": 0,
        "quarantined": 0,
        "skipped": 1,
        "seconds_per_clip": None,
        "all_succeeded": False,
    }


def test_given_images_and_videos_take_the_place_of_what_a_stage_makes(undisturbed: Storage) -> None:
    rows = {(row.stage, row.prompt): row for row in read_manifests(undisturbed)}
    image = read_uri(str(rows["t2i", "one"].artifact_uri))
    assert image == encode_png(np.full((16, 16, 3), (200, 30, 30), np.uint8))
    keyframes = decode_video(read_uri(str(rows["i2v", "two"].artifact_uri))).frames_THWC_u8
    assert keyframes.shape == (4, 16, 16, 3)
    # Of 8 frames the first, the last and two between: 0, 2, 5, 7.
    assert [int(frame[8, 8, 0]) for frame in keyframes] == [200 // (1 + t) for t in (0, 2, 5, 7)]


def test_another_shard_size_gives_the_same_bytes_and_a_lost_part_is_made_again(
    undisturbed: Storage, prompts: str, fake_overrides: tuple[str, ...], tmp_path: Path
) -> None:
    request = {"prompts": prompts, "output": str(tmp_path), "overrides": faulty(fake_overrides), "run_id": "run"}
    generate(**request, shard_size=3)
    storage = Storage(tmp_path / "run")
    expected = outcome(undisturbed)
    assert outcome(storage) == expected

    # As after a kill: vfi has no manifest of shard 0 but the journal record of one clip; v2v lost shard 1 altogether.
    before = {(row.stage, row.clip_id): row for row in read_manifests(storage)}
    kept = next(row for row in before.values() if row.stage == "vfi" and row.shard_id == 0)
    lost = [("vfi", 0), ("vfi", 1), ("v2v", 1)]
    for stage, shard_id in lost:
        storage.delete(manifest_key(stage, shard_id, 1))
    write_record(storage, kept)
    assert run_status(storage)["left"] == 2 + 2 + 2
    generate(**request, shard_size=3)
    assert outcome(storage) == expected

    def same(row: ManifestRow) -> bool:
        return row == before[row.stage, row.clip_id]

    again = [(row.stage, row.shard_id, row.clip_id) for row in read_manifests(storage) if not same(row)]
    assert {(stage, shard_id) for stage, shard_id, _ in again} == set(lost)
    assert kept.clip_id not in {clip_id for stage, _, clip_id in again if stage == "vfi"}
    assert storage.list("journal") == [session_key(1), session_key(2)], "the records went, the sessions stay"
    was_left = [row for row in before.values() if (row.stage, row.shard_id) not in lost or row == kept]
    seconds = sum(row.duration_s or 0.0 for row in was_left if row.status == "succeeded")
    first, second = read_sessions(storage)
    assert (first.found_done.clip_stages, second.found_done.clip_stages) == (0, 17 - 4)
    assert second.found_done.stage_s == pytest.approx(seconds)


def test_a_signal_stops_the_run_and_the_same_request_finishes_it(
    undisturbed: Storage, prompts: str, fake_overrides: tuple[str, ...], tmp_path: Path
) -> None:
    # The run cannot end before the signal comes, however quick the machine.
    hold_file, held = hold_i2v(tmp_path)
    overrides = (*faulty(fake_overrides), held)
    request = RunRequest(prompts, str(tmp_path), overrides=overrides, run_id="run", shard_size=2)

    def terminate_after_the_first_clip(board: ProgressBoard) -> None:
        if board.snapshot()["t2i"].succeeded:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(KeyboardInterrupt):
        run_generate(resolve_run(request), request, terminate_after_the_first_clip)
    hold_file.unlink()
    left = run_status(Storage(tmp_path / "run"))["left"]
    assert 0 < left < len(STAGES) * len(PROMPTS)
    run = resolve_run(request)
    assert not run.is_new
    summary = run_generate(run, request, lambda board: None)
    assert summary["stages"]["vfi"]["succeeded"] == 4
    assert outcome(run.storage) == outcome(undisturbed)


def test_a_second_driver_is_refused_and_one_that_was_taken_over_stops(
    prompts: str, fake_overrides: tuple[str, ...], tmp_path: Path
) -> None:
    request = RunRequest(prompts, str(tmp_path), overrides=fake_overrides, run_id="run")
    storage = Storage(tmp_path / "run")
    session = open_session(storage, on_lost=print)
    with pytest.raises(RunError, match=r"is being worked on by pid \d+ on"):
        run_generate(resolve_run(request), request, lambda board: None)
    assert storage.list() == [session_key(1)], "nothing was written"
    session.close()

    def take_over_after_the_first_clip(board: ProgressBoard) -> None:
        if board.snapshot()["t2i"].succeeded:
            storage.write(session_key(3), read_sessions(storage)[0].to_bytes())

    slow = RunRequest(prompts, str(tmp_path), overrides=(*fake_overrides, "t2i.fake.sleep_s=4"), run_id="run")
    with pytest.raises(RunStoppedError, match="was taken over by pid"):
        run_generate(resolve_run(slow), slow, take_over_after_the_first_clip)
    assert read_sessions(storage)[1].ended_at is None, "its object is left to whoever took over"
    assert read_sessions(storage)[1].found_done == FoundDone()


def test_a_stop_condition_finishes_what_is_in_flight_and_the_same_request_goes_on(
    undisturbed: Storage, prompts: str, fake_overrides: tuple[str, ...], tmp_path: Path
) -> None:
    hold_file, held = hold_i2v(tmp_path)
    overrides = (*faulty(fake_overrides), held)
    request = RunRequest(prompts, str(tmp_path), overrides=overrides, run_id="run", shard_size=2, deadline="6h")
    run = resolve_run(request)
    drained: list[Engine] = []

    def reach_the_deadline_after_the_first_clip(board: ProgressBoard) -> None:
        if board.snapshot()["t2i"].succeeded and not drained:
            drained.append(engine_of(run.uri))
            drained[0].drain(RunStoppedError("It is time."))
            hold_file.unlink()

    with pytest.raises(RunStoppedError, match="It is time"):
        run_generate(run, request, reach_the_deadline_after_the_first_clip)
    status = run_status(run.storage)
    assert 0 < status["left"] < len(STAGES) * len(PROMPTS)
    # The clip that cannot succeed may have had all its tries by then; nothing else fails or is skipped for being stopped.
    assert not_made(run.storage) <= not_made(undisturbed)
    run_generate(resolve_run(request), request, lambda board: None)
    assert outcome(run.storage) == outcome(undisturbed)


def test_another_configuration_or_prompt_set_is_refused(
    undisturbed: Storage, prompts: str, fake_overrides: tuple[str, ...], tmp_path: Path
) -> None:
    output, run_id = undisturbed.uri.rpartition("/")[::2]
    request = RunRequest(prompts, output, overrides=faulty(fake_overrides), run_id=run_id, shard_size=2)
    assert not resolve_run(request).is_new
    changed = RunRequest(
        prompts, output, overrides=(*faulty(fake_overrides), "vfi.crf=20"), run_id=run_id, shard_size=3
    )
    with pytest.raises(RunError, match=r"other values of shard_size, vfi\.crf: give the same configuration"):
        resolve_run(changed)
    (tmp_path / "other.txt").write_text("one\nsix\n")
    other = RunRequest(str(tmp_path / "other.txt"), output, overrides=request.overrides, run_id=run_id, shard_size=2)
    with pytest.raises(RunError, match=r"another prompt set .* \(2 clips new, 5 gone\)"):
        resolve_run(other)


def test_prefect_tries_a_task_again_only_where_the_reason_may_pass() -> None:
    calls: Counter[str] = Counter()

    @task(cache_policy=NO_CACHE, **{**RETRY_TRANSIENT, "retry_delay_seconds": 0})
    def fails_at_first(error: type[Exception]) -> int:
        calls[error.__name__] += 1
        if calls[error.__name__] < 3:
            raise error("as the test asked")
        return calls[error.__name__]

    @flow
    def twice() -> list[Any]:
        states = [fails_at_first(kind, return_state=True) for kind in (StorageUnavailableError, GateError)]
        return [state.is_completed() for state in states]

    assert twice() == [True, False]
    assert calls == {"StorageUnavailableError": 3, "GateError": 1}


def test_the_stages_of_a_shard_stand_beside_each_other_each_after_those_it_waits_for() -> None:
    assert list(in_waves([0, 1], ["t2i", "i2v"])) == [(0, "t2i"), (0, "i2v"), (1, "t2i"), (1, "i2v")]
