"""Stop conditions: what may be given, and that a run that reaches one starts no more work."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from flows.options import generate_command
from magicvideo_core.clips import Clip
from magicvideo_core.errors import InputError, RunStoppedError
from tasks.pools.clip_work import ClipWork
from tasks.pools.pool import StagePool
from tasks.resolve import RunRequest, resolve_run
from tasks.runtime import Engine
from tasks.stop_conditions import StopConditions, parse_duration, parse_stop_conditions


@pytest.mark.parametrize(
    ("text", "seconds"), [("90m", 5400), ("6h", 21600), ("1d12h", 129600), ("1.5h", 5400), ("45s", 45), ("2h30m", 9000)]
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "6", "h", "6 hours", "..h", "2026-11-23T06:00"])
def test_what_is_no_duration(text: str) -> None:
    assert parse_duration(text) is None


def test_deadlines_count_from_now_or_are_a_time() -> None:
    now = datetime.now(UTC)
    in_an_hour = parse_stop_conditions(None, "1h").deadline
    assert in_an_hour is not None and abs(in_an_hour - now - timedelta(hours=1)) < timedelta(minutes=1)
    assert parse_stop_conditions(2.5, "2999-01-01T06:00+02:00") == StopConditions(
        2.5, datetime(2999, 1, 1, 4, tzinfo=UTC)
    )
    assert parse_stop_conditions(None, None) == StopConditions()


@pytest.mark.parametrize(
    ("max_gpu_hours", "deadline", "message"),
    [
        (0.0, None, "allows no work"),
        (float("nan"), None, "allows no work"),
        (None, "tomorrow", "'tomorrow' is neither a time"),
        (None, "0s", "has passed"),
        (None, "2001-01-01T00:00", "has passed"),
    ],
)
def test_bounds_that_bound_nothing_are_refused(max_gpu_hours: float, deadline: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_stop_conditions(max_gpu_hours, deadline)


def test_the_command_that_goes_on_repeats_what_still_makes_sense() -> None:
    request = RunRequest("p.txt", "runs", max_gpu_hours=2.0, deadline="6h")
    assert generate_command(request, "r")[-4:] == ["--max-gpu-hours", "2", "--deadline", "6h"]
    assert generate_command(RunRequest("p.txt", "runs", deadline="2026-11-23T06:00"), "r")[-2:] == ["--run-id", "r"]


@pytest.mark.parametrize("bound", ["deadline", "budget"])
def test_an_engine_that_has_reached_a_bound_starts_nothing(
    local_ray: None, fake_overrides: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bound: str
) -> None:
    monkeypatch.setattr(StagePool, "gpu_s", lambda pool: 3600.0)
    (tmp_path / "p.txt").write_text("one\n")
    run = resolve_run(RunRequest(str(tmp_path / "p.txt"), str(tmp_path), overrides=(*fake_overrides, "stages=t2i")))
    soon = datetime.now(UTC) + timedelta(seconds=0.1)
    engine = Engine(run, StopConditions(deadline=soon) if bound == "deadline" else StopConditions(max_gpu_hours=0.5))
    try:
        pool = engine.pool("t2i")
        # Before an actor has started, which takes longer than the deadline is away.
        with pytest.raises(RunStoppedError, match=f"has reached its {bound}"):
            pool.run([ClipWork(Clip("a", "one"), 0, 1)])
        engine.wait_until_drained()
    finally:
        engine.close()
    assert not (tmp_path / run.run_id / "artifacts").exists()
