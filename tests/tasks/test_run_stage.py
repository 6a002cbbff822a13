"""What a resumed or retried shard does again, with the real actor code in this process and no Ray."""

import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from magicvideo_core.errors import RunError
from magicvideo_core.manifest import layout
from magicvideo_core.manifest.artifacts import artifact_key_of
from magicvideo_core.manifest.audit import audit_run
from magicvideo_core.manifest.inventory import Inventory
from magicvideo_core.manifest.journal import write_record
from magicvideo_core.manifest.schema import ManifestRow
from magicvideo_core.manifest.table import list_manifests, read_manifest, read_manifests, write_manifest
from magicvideo_core.storage import Storage
from tasks import run_stage
from tasks.engines import open_engine, start_engine
from tasks.handover import Handover
from tasks.plan import write_run
from tasks.pools.actor import StageActor
from tasks.pools.clip_work import ClipWork, Raised, StageJob, UpstreamLost, unfinished_row
from tasks.progress import ProgressBoard
from tasks.publish import publish_run
from tasks.resolve import ResolvedRun, RunRequest, resolve_run
from tasks.reuse import ReuseSource
from tasks.run_stage import complete_shard
from tasks.selection import RetryRequest, resolve_retry
from tasks.status import describe_plan, run_status
from tasks.stop_conditions import StopConditions

STAGES = ("t2i", "i2v", "v2v", "vfi")


class InlinePool:
    """Runs the actor in this thread; `broken` are (stage, prompt) pairs that end quarantined."""

    def __init__(self, engine: "InlineEngine", stage: str) -> None:
        self._engine, self._stage = engine, stage

    def follow(
        self, batches: Iterable[Sequence[ClipWork]], on_rows: Callable[[Sequence[ManifestRow]], object]
    ) -> list[ManifestRow | UpstreamLost]:
        actor = StageActor(self._engine.job(self._stage))
        actor.load()
        results: list[ManifestRow | UpstreamLost] = []
        for work in chain.from_iterable(batches):
            self._engine.board.start(self._stage, 1)
            if (self._stage, work.clip.prompt) in self._engine.broken:
                reason = run_stage.Reason("ActorDiedError", "as the test asked")
                result: ManifestRow | Raised = unfinished_row(
                    self._engine.job(self._stage), work, "quarantined", reason
                )
                write_record(self._engine.run.storage, result)
            else:
                [result] = actor.run([work])
            if isinstance(result, Raised):
                assert result.lost_stage is not None, result
                self._engine.board.put_back(self._stage, 1)
                results.append(UpstreamLost(result.clip_id, result.lost_stage, result.reason))
            else:
                self._engine.computed.append((self._stage, work.clip.prompt))
                self._engine.board.finish(result, was_running=True)
                on_rows([result])
                results.append(result)
        return results


class InlineEngine:
    """The part of an engine that `complete_shard` uses."""

    def __init__(self, run: ResolvedRun, broken: Sequence[tuple[str, str]] = ()) -> None:
        self.run, self.broken = run, set(broken)
        self.board = ProgressBoard(run.config.stages, run.num_clips_to_work_on)
        self.inventory = Inventory(run.storage)
        self.handover = Handover(run.config.stages)
        self.reuse = ReuseSource(run.reuse, run.record.recipe_hashes) if run.reuse is not None else None
        self.computed: list[tuple[str, str]] = []

    def job(self, stage: str) -> StageJob:
        run = self.run
        return StageJob(stage, run.config, run.storage, run.run_id, run.record.recipe_hashes[stage])

    def pool(self, stage: str) -> InlinePool:
        return InlinePool(self, stage)

    def work(self) -> list[tuple[str, str]]:
        """Do what the flow does; returns the (stage, prompt) pairs that were computed."""
        for shard_id in write_run(self.run):
            for stage in self.run.config.stages:
                complete_shard(self, stage, shard_id)
        publish_run(self.run)
        # The live table has counted each clip once, also those that were reopened or made again for a later stage.
        assert not any(counts.pending or counts.running for counts in self.board.snapshot().values())
        return sorted(self.computed)


@pytest.fixture
def request_of(tmp_path: Path, fake_overrides: tuple[str, ...]) -> Any:
    (tmp_path / "p.csv").write_text("id,prompt\nfirst,one\nsecond,two\nthird,three\n")

    def make(**changes: Any) -> RunRequest:
        values = {"overrides": fake_overrides, "run_id": "run", "shard_size": 2}
        return RunRequest(str(tmp_path / "p.csv"), **{"output": str(tmp_path), **values, **changes})

    return make


def rows_of(storage: Storage) -> dict[tuple[str, str], ManifestRow]:
    return {(row.stage, row.prompt): row for row in read_manifests(storage)}


def outcome(storage: Storage) -> dict[tuple[str, str], tuple[str, str | None]]:
    return {key: (row.status, row.sha256) for key, row in rows_of(storage).items()}


def all_rows(storage: Storage) -> list[ManifestRow]:
    """Return the rows of every attempt, after checking that no clip has two of one attempt."""
    rows = [row for key in list_manifests(storage) for row in read_manifest(storage, key)]
    assert max(Counter((row.stage, row.clip_id, row.attempt) for row in rows).values()) == 1
    return rows


def test_the_same_prompt_file_is_not_derived_again(request_of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    InlineEngine(resolve_run(request_of())).work()
    monkeypatch.setattr("tasks.resolve.read_prompts", lambda *args, **options: pytest.fail("the plan is there"))
    run = resolve_run(request_of())
    assert [clip.source_id for clip in run.shards.clips] == ["first", "second", "third"]
    # A part of the plan is gone: the clips are needed.
    run.storage.delete(layout.plan_key(1))
    with pytest.raises(pytest.fail.Exception):
        resolve_run(request_of())


def test_a_resumed_run_does_nothing_twice(request_of: Any) -> None:
    first = InlineEngine(resolve_run(request_of()))
    assert len(first.work()) == 12
    before = outcome(first.run.storage)
    assert InlineEngine(resolve_run(request_of())).work() == []
    assert outcome(first.run.storage) == before
    assert first.board.snapshot()["vfi"].succeeded == 3


def test_a_retry_does_what_broke_and_what_follows_it_under_the_next_attempt(request_of: Any) -> None:
    undisturbed = InlineEngine(resolve_run(request_of(run_id="undisturbed")))
    undisturbed.work()
    broken = InlineEngine(resolve_run(request_of()), [("i2v", "two")])
    broken.work()
    uri = broken.run.uri
    assert [rows_of(broken.run.storage)[stage, "two"].status for stage in STAGES] == [
        "succeeded",
        "quarantined",
        "skipped",
        "skipped",
    ]
    # Not asked for, and a plain resume leaves it too.
    assert resolve_retry(RetryRequest(uri)).selection.clip_ids == frozenset()
    assert InlineEngine(resolve_run(request_of())).work() == []

    again = InlineEngine(resolve_retry(RetryRequest(uri, quarantined=True)), [("i2v", "two")])
    assert again.work() == [("i2v", "two")]
    again = InlineEngine(resolve_retry(RetryRequest(uri, stage="i2v", shard=0, clips=("second",), quarantined=True)))
    assert again.work() == [("i2v", "two"), ("v2v", "two"), ("vfi", "two")]
    assert again.board.snapshot()["vfi"].succeeded == 1
    storage = broken.run.storage
    assert outcome(storage) == outcome(undisturbed.run.storage)
    attempts = {
        stage: [row.attempt for row in all_rows(storage) if row.prompt == "two" and row.stage == stage]
        for stage in STAGES
    }
    assert attempts == {"t2i": [1], "i2v": [1, 2, 3], "v2v": [1, 2], "vfi": [1, 2]}
    assert run_status(storage)["finished"]


def test_an_interrupted_retry_goes_on_with_either_command(request_of: Any, tmp_path: Path) -> None:
    broken = InlineEngine(resolve_run(request_of()), [("i2v", "two"), ("i2v", "three")])
    broken.work()
    storage, uri = broken.run.storage, broken.run.uri
    retry = InlineEngine(resolve_retry(RetryRequest(uri, clips=("second",), quarantined=True)))
    complete_shard(retry, "i2v", 0)
    # Killed here: i2v has succeeded, v2v and vfi still say that it did not.
    assert run_status(storage)["left"] == 2
    assert resolve_retry(RetryRequest(uri)).selection.clip_ids == {rows_of(storage)["i2v", "two"].clip_id}
    assert InlineEngine(resolve_run(request_of())).work() == [("v2v", "two"), ("vfi", "two")]
    # The other one is still quarantined: only a retry that asks for it takes it up.
    assert rows_of(storage)["i2v", "three"].status == "quarantined"


def test_a_retry_of_an_unfinished_run_leaves_the_rest_to_generate(request_of: Any) -> None:
    engine = InlineEngine(resolve_run(request_of()), [("t2i", "one")])
    write_run(engine.run)
    complete_shard(engine, "t2i", 0)
    uri = engine.run.uri
    retry = InlineEngine(resolve_retry(RetryRequest(uri, quarantined=True)))
    assert retry.work() == [(stage, "one") for stage in sorted(STAGES)]
    assert run_status(engine.run.storage)["left"] == 3 + 4
    assert len(InlineEngine(resolve_run(request_of())).work()) == 7
    assert {status for status, _ in outcome(engine.run.storage).values()} == {"succeeded"}


def test_a_clip_that_breaks_again_in_a_retry_that_is_cut_short_has_one_row_per_attempt(request_of: Any) -> None:
    broken = InlineEngine(resolve_run(request_of()), [("t2i", "one")])
    broken.work()
    storage, uri = broken.run.storage, broken.run.uri
    # The retry got as far as the journal record of its new failure.
    row = rows_of(storage)["t2i", "one"]
    write_record(storage, replace(row, attempt=2))
    assert InlineEngine(resolve_retry(RetryRequest(uri, quarantined=True))).work() == [
        (stage, "one") for stage in sorted(STAGES)
    ]
    assert [row.attempt for row in all_rows(storage) if row.stage == "t2i" and row.prompt == "one"] == [1, 2, 3]
    assert {status for status, _ in outcome(storage).values()} == {"succeeded"}


@pytest.mark.parametrize(
    ("request_changes", "expected"),
    [
        ({"stage": "v3v"}, "has no stage 'v3v'"),
        ({"shard": 2}, "has no shard 2: choose one of 0 to 1"),
        ({"clips": ("nobody",)}, "has no clip 'nobody'"),
        ({"clips": ("third",), "shard": 0}, "has no clip 'third' in shard 0"),
    ],
)
def test_a_retry_of_what_is_not_there_is_refused(request_of: Any, request_changes: Any, expected: str) -> None:
    run = resolve_run(request_of())
    write_run(run)
    with pytest.raises(RunError, match=expected):
        resolve_retry(RetryRequest(run.uri, **request_changes))


@pytest.mark.parametrize("damage", ["deleted", "truncated"])
def test_an_artifact_that_is_gone_is_made_again_and_only_that(request_of: Any, damage: str) -> None:
    engine = InlineEngine(resolve_run(request_of()))
    engine.work()
    storage = engine.run.storage
    before = outcome(storage)
    for stage, prompt in (("t2i", "one"), ("vfi", "three")):
        key = str(artifact_key_of(rows_of(storage)[stage, prompt]))
        data = storage.read(key)
        storage.delete(key)
        if damage == "truncated":
            storage.write(key, data[:-1])
    assert InlineEngine(resolve_run(request_of())).work() == [("t2i", "one"), ("vfi", "three")]
    assert outcome(storage) == before
    assert rows_of(storage)["t2i", "one"].attempt == 2
    all_rows(storage)
    assert audit_run(storage).ok
    assert InlineEngine(resolve_run(request_of())).work() == []


def test_what_a_stage_finds_damaged_is_made_again_by_the_stage_that_made_it(request_of: Any) -> None:
    undisturbed = InlineEngine(resolve_run(request_of(run_id="undisturbed")))
    undisturbed.work()
    broken = InlineEngine(resolve_run(request_of()), [("v2v", "two")])
    broken.work()
    storage = broken.run.storage
    for stage in ("t2i", "i2v"):
        flip_a_bit(storage, str(artifact_key_of(rows_of(storage)[stage, "two"])))
    # The sizes are right, so nothing is noticed before v2v reads.
    assert InlineEngine(resolve_run(request_of())).work() == []
    again = InlineEngine(resolve_retry(RetryRequest(broken.run.uri, quarantined=True)))
    assert again.work() == [(stage, "two") for stage in sorted(STAGES)]
    assert outcome(storage) == outcome(undisturbed.run.storage)
    assert {(counts.pending, counts.running, counts.succeeded) for counts in again.board.snapshot().values()} == {
        (0, 0, 1)
    }
    assert audit_run(storage).ok
    all_rows(storage)


def test_storage_that_loses_what_was_made_each_time_is_not_fed_for_ever(
    request_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = InlineEngine(resolve_run(request_of(stages="t2i,i2v")))
    complete = run_stage.complete_shard

    def complete_and_damage(engine: Any, stage: str, shard_id: int, lost: Any = ()) -> Any:
        counts = complete(engine, stage, shard_id, lost)
        if stage == "t2i":
            flip_a_bit(engine.run.storage, str(artifact_key_of(rows_of(engine.run.storage)["t2i", "one"])))
        return counts

    monkeypatch.setattr(run_stage, "complete_shard", complete_and_damage)
    write_run(engine.run)
    for stage in ("t2i", "i2v"):
        complete_and_damage(engine, stage, 0)
    rows = rows_of(engine.run.storage)
    assert (rows["i2v", "one"].status, rows["i2v", "one"].error_type) == ("failed", "UpstreamLostError")
    assert (rows["t2i", "one"].attempt, rows["i2v", "two"].status) == (3, "succeeded")


def flip_a_bit(storage: Storage, key: str) -> None:
    data = bytearray(storage.read(key))
    data[len(data) // 2] ^= 4
    storage.write(key, bytes(data))


def test_other_settings_of_the_last_stage_compute_only_that_one(request_of: Any, tmp_path: Path) -> None:
    first = InlineEngine(resolve_run(request_of()))
    first.work()
    changed = {"overrides": (*request_of().overrides, "vfi.interp_factor=2"), "run_id": "other", "shard_size": 3}
    other = InlineEngine(resolve_run(request_of(**changed, reuse=first.run.uri)))
    assert other.work() == [("vfi", "one"), ("vfi", "three"), ("vfi", "two")]
    storage = other.run.storage
    rows = rows_of(storage)
    for (stage, prompt), row in rows_of(first.run.storage).items():
        mine = rows[stage, prompt]
        assert (mine.sha256 == row.sha256) == (stage != "vfi")
        if stage != "vfi":
            assert (mine.reused_from, mine.duration_s, mine.gpu_s) == (first.run.uri, row.duration_s, row.gpu_s)
            assert mine.run_id == "other" and mine.artifact_uri == str(row.artifact_uri).replace("/run/", "/other/")
        else:
            assert mine.reused_from is None
    assert audit_run(storage).ok
    # Not a hair of the source has changed, and nothing hangs on it any more.
    assert audit_run(first.run.storage).ok
    shutil.rmtree(first.run.uri)
    assert InlineEngine(resolve_run(request_of(**changed))).work() == []


def test_reuse_computes_what_the_other_run_lacks_or_made_of_other_bytes(request_of: Any) -> None:
    first = InlineEngine(resolve_run(request_of()), [("i2v", "two")])
    first.work()
    source = first.run.storage
    rows = rows_of(source)
    source.delete(str(artifact_key_of(rows["vfi", "one"])))
    # As if t2i had come out otherwise there: what follows from it is not what follows here.
    row = rows["t2i", "three"]
    write_manifest(source, "t2i", row.shard_id, 2, [replace(row, attempt=2, status="failed")])
    # Damaged there, which i2v finds when it has to compute here.
    flip_a_bit(source, str(artifact_key_of(rows["t2i", "two"])))
    run = resolve_run(request_of(run_id="other", reuse=first.run.uri))
    # Upper bounds: what is gone, or comes from other bytes, shows when it is taken over.
    assert describe_plan(run)["reusable"] == {"t2i": 2, "i2v": 2, "v2v": 2, "vfi": 2}
    other = InlineEngine(run)
    expected = {("t2i", "two"), ("i2v", "two"), ("v2v", "two"), ("vfi", "two"), ("vfi", "one")}
    expected |= {("t2i", "three"), ("i2v", "three"), ("v2v", "three")}
    assert set(other.work()) == expected
    assert {status for status, _ in outcome(other.run.storage).values()} == {"succeeded"}


def test_reuse_of_nothing_is_refused(request_of: Any, tmp_path: Path) -> None:
    run = resolve_run(request_of())
    write_run(run)
    for uri, changes, expected in (
        (run.uri, {}, "is the run itself"),
        (str(tmp_path / "none"), {"run_id": "other"}, "There is no run"),
        (
            run.uri,
            {"run_id": "other", "overrides": (*request_of().overrides, "t2i.guidance_scale=9")},
            "Nothing of run",
        ),
    ):
        with pytest.raises(RunError, match=expected):
            resolve_run(request_of(reuse=uri, **changes))


@pytest.mark.parametrize("key", ["plan/shard-00001.parquet", "manifests/i2v/shard-00000.attempt-001.parquet"])
def test_a_torn_table_is_written_again_with_the_same_outcome(request_of: Any, key: str) -> None:
    engine = InlineEngine(resolve_run(request_of()))
    engine.work()
    storage = engine.run.storage
    before = outcome(storage)
    storage.write(key, storage.read(key)[:-20])
    again = InlineEngine(resolve_run(request_of())).work()
    assert again == ([] if key.startswith("plan") else [("i2v", "one"), ("i2v", "two")])
    assert outcome(storage) == before
    all_rows(storage)
    assert InlineEngine(resolve_run(request_of())).work() == []


@pytest.mark.parametrize("damage", [None, b'{"run_id": "ru', b""])
def test_a_run_whose_record_is_gone_or_torn_continues_where_all_else_fits(
    request_of: Any, tmp_path: Path, damage: bytes | None
) -> None:
    def damage_the_record() -> None:
        storage.delete(layout.run_json_key()) if damage is None else storage.write(layout.run_json_key(), damage)

    storage = Storage(tmp_path / "run")
    damage_the_record()
    run = resolve_run(request_of())
    assert run.is_new
    assert len(InlineEngine(run).work()) == 12
    before = outcome(storage)
    damage_the_record()
    if damage is not None:
        with pytest.raises(RunError, match=r"run\.json is torn .*: give the `magicvideo generate` .* --run-id run"):
            run_status(storage)
    (tmp_path / "more.csv").write_text("prompt\nfour\n")
    for changes, comes_from in (
        (
            {"overrides": (*request_of().overrides, "i2v.guidance_scale=9")},
            "other settings or weights of i2v, v2v, vfi",
        ),
        ({"prompts": str(tmp_path / "more.csv")}, "other prompts"),
    ):
        with pytest.raises(RunError, match=f"what lies there comes from {comes_from}: give"):
            resolve_run(replace(request_of(), **changes))
    with pytest.raises(RunError, match="another order or shard size"):
        resolve_run(request_of(shard_size=1))
    assert InlineEngine(resolve_run(request_of())).work() == []
    assert outcome(storage) == before
    assert run_status(storage)["left"] == 0


def test_a_record_of_another_version_is_left_alone(request_of: Any, tmp_path: Path) -> None:
    storage = Storage(tmp_path / "run")
    storage.write(layout.run_json_key(), b'{"run_id": "run"}')
    with pytest.raises(RunError, match=r"run\.json is not readable by this version .*: use the version"):
        resolve_run(request_of())


def test_a_run_that_was_begun_since_its_request_was_checked_is_refused(
    local_ray: None, request_of: Any, tmp_path: Path
) -> None:
    request = request_of(stages="t2i")
    ours, theirs = resolve_run(request), resolve_run(request)
    start_engine(ours, StopConditions())
    write_run(theirs)
    before = Storage(tmp_path / "run").read(layout.run_json_key())
    with pytest.raises(RunError, match=r"was begun meanwhile: give the same command again\."), open_engine(request):
        raise AssertionError("the run was taken")
    assert Storage(tmp_path / "run").read(layout.run_json_key()) == before
    # The session was given back: the same command again goes on.
    with open_engine(request) as engine:
        assert not engine.run.is_new


def test_where_another_driver_took_the_attempt_its_rows_count_and_ours_follow(
    request_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = InlineEngine(resolve_run(request_of()))
    write_run(engine.run)
    storage = engine.run.storage

    def taken_at_first(*args: Any) -> Any:
        monkeypatch.undo()
        rows = args[-1]
        write_manifest(storage, "t2i", 0, 1, [replace(rows[0], actor_id="another")])
        return write_manifest(*args)

    monkeypatch.setattr(run_stage, "write_manifest", taken_at_first)
    complete_shard(engine, "t2i", 0)
    assert [(row.prompt, row.attempt, row.actor_id) for row in all_rows(storage)] == [
        ("one", 1, "another"),
        ("two", 2, ""),
    ]
    assert engine.computed == [("t2i", "one"), ("t2i", "two")]


def test_torn_lost_damaged_retried_reused_and_verified_on_s3(s3: Any, request_of: Any, tmp_path: Path) -> None:
    undisturbed = InlineEngine(resolve_run(request_of(run_id="undisturbed")))
    undisturbed.work()
    request = request_of(output=s3.uri(tmp_path.name))
    broken = InlineEngine(resolve_run(request), [("v2v", "two")])
    broken.work()
    storage = broken.run.storage
    torn = "manifests/vfi/shard-00000.attempt-001.parquet"
    storage.write(torn, storage.read(torn)[:-30])
    gone = str(artifact_key_of(rows_of(storage)["t2i", "three"]))
    storage.delete(gone)
    flip_a_bit(storage, str(artifact_key_of(rows_of(storage)["i2v", "two"])))
    assert {line.split(":")[0] for line in audit_run(storage).lines()} == {
        "unreadable",
        "missing",
        "different",
        "extra",
        "without a row",
    }
    assert InlineEngine(resolve_run(request)).work() == [("t2i", "three"), ("vfi", "one")]
    again = InlineEngine(resolve_retry(RetryRequest(storage.uri, stage="v2v", quarantined=True)))
    assert again.work() == [("i2v", "two"), ("v2v", "two"), ("vfi", "two")]
    assert outcome(storage) == outcome(undisturbed.run.storage)
    assert audit_run(storage).lines() == []
    # The server's own copy within one store, read and written between two.
    for output in (s3.uri(tmp_path.name), str(tmp_path)):
        other = InlineEngine(resolve_run(request_of(output=output, run_id="other", reuse=storage.uri)))
        assert other.work() == []
        assert outcome(other.run.storage) == outcome(storage)
        assert audit_run(other.run.storage).ok
