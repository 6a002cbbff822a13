"""What resuming and reuse saved: sessions that went on from others' work count, sessions without work of their own not."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from magicvideo_core.manifest.savings import Savings, savings
from magicvideo_core.manifest.schema import ManifestRow
from magicvideo_core.manifest.session import FoundDone, SessionRecord
from magicvideo_core.manifest.tally import FailureCount, Tally

START = datetime(2026, 1, 1, tzinfo=UTC)


def _row(clip_id: str, minute: float, **changes: Any) -> ManifestRow:
    values = {
        "run_id": "r",
        "shard_id": 0,
        "stage": "t2i",
        "attempt": 1,
        "status": "succeeded",
        "prompt": "",
        "seed": 0,
    }
    times = {"started_at": START + timedelta(minutes=minute), "duration_s": 10.0, "gpu_s": 5.0}
    return ManifestRow(**{**values, **times, "clip_id": clip_id, **changes})


def _session(number: int, minute: float, found: FoundDone) -> SessionRecord:
    started_at = (START + timedelta(minutes=minute)).isoformat(timespec="seconds")
    return SessionRecord(number, "host", "", 1, "", "", started_at, found_done=found)


def test_what_sessions_found_done_and_went_on_from_is_saved() -> None:
    rows = [
        _row("a", 1),
        _row("b", 2),
        _row("c", 61),
        _row("d", 121, status="failed"),
        _row("e", 181, status="skipped"),
    ]
    sessions = [
        _session(1, 0, FoundDone()),
        _session(2, 60, FoundDone(2, 20.0, 10.0)),
        _session(3, 120, FoundDone(3, 30.0, 15.0)),
        # Given once more after everything was done.
        _session(4, 180, FoundDone(3, 30.0, 15.0)),
    ]
    assert savings(sessions, Tally.of_rows(rows, sessions)) == Savings(
        num_continued=2, resumed_stage_s=50.0, resumed_gpu_s=25.0
    )
    assert savings(sessions[:1], Tally.of_rows(rows, sessions[:1])) == Savings()


def test_what_was_taken_over_is_saved_and_is_no_work_of_this_run() -> None:
    rows = [_row("a", 61, reused_from="runs/x"), _row("b", 61, reused_from="runs/x")]
    sessions = [_session(1, 0, FoundDone()), _session(2, 60, FoundDone(1, 1.0, 1.0))]
    found = savings(sessions, Tally.of_rows(rows, sessions))
    assert found == Savings(num_reused=2, reused_stage_s=20.0, reused_gpu_s=10.0)
    assert found.to_json()["reused_gpu_s"] == 10.0


def test_failures_are_counted_by_stage_type_and_status() -> None:
    bad = _row("a", 1, status="failed", error_type="GateError")
    worse = replace(bad, status="quarantined", error_type="ActorDiedError", stage="i2v")
    found = Tally.of_rows([worse, bad, bad, _row("b", 1), replace(worse, status="skipped")]).failures()
    assert found == [
        FailureCount("t2i", "GateError", "failed", 2),
        FailureCount("i2v", "ActorDiedError", "quarantined", 1),
    ]
