"""Sizing and forecast: pools that make the most clips per hour, what they take, and where the times come from."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from magicvideo_core.config import PoolConfig, RunConfig, load_config
from magicvideo_core.errors import InputError
from magicvideo_core.manifest.outlay import actual
from magicvideo_core.manifest.schema import ManifestRow
from magicvideo_core.manifest.tally import Tally
from tasks.costs import Costs, StageCost, calibrate, costs_of, read_costs
from tasks.forecast import Machines, forecast
from tasks.pools.sizing import best_layout, size_pools
from tasks.resolve import RunRequest, resolve_run

# Of one clip at the paper's sizes.
SECONDS = {"t2i": 1.3, "i2v": 6.8, "v2v": 18.5, "vfi": 0.5}


def _config(num_gpus: float, max_actors: int = 64) -> RunConfig:
    pools = [f"{stage}.pool.{key}" for stage in SECONDS for key in (f"num_gpus={num_gpus}", f"max_actors={max_actors}")]
    return load_config(overrides=[f"{stage}.backend=fake" for stage in SECONDS] + pools)


def _costs(**changes: float) -> Costs:
    return Costs("as given", {stage: replace(StageCost(seconds), **changes) for stage, seconds in SECONDS.items()})


def test_the_slowest_stage_gets_the_next_actor() -> None:
    pools = {stage: PoolConfig(num_gpus=1, num_cpus=0, max_actors=64) for stage in SECONDS}
    assert size_pools(pools, {"GPU": 8}, 100, SECONDS) == {"t2i": 1, "i2v": 2, "v2v": 4, "vfi": 1}
    assert size_pools(pools, {"GPU": 16}, 1000, SECONDS) == {"t2i": 1, "i2v": 4, "v2v": 10, "vfi": 1}
    # The slowest cannot grow: the others would only wait for it.
    pools["v2v"] = PoolConfig(num_gpus=1, num_cpus=0, max_actors=1)
    assert size_pools(pools, {"GPU": 16}, 1000, SECONDS) == {"t2i": 1, "i2v": 1, "v2v": 1, "vfi": 1}


@pytest.mark.parametrize(
    ("num_gpus", "share", "of_ideal"), [(3, 0.25, 0.97), (4, 0.25, 0.97), (8, 0.25, 0.97), (64, 1, 0.97)]
)
def test_shares_of_each_gpu_on_few_and_whole_ones_on_many(num_gpus: int, share: float, of_ideal: float) -> None:
    layout = best_layout(SECONDS, num_gpus, {}, None)
    assert layout is not None and layout.num_gpus == share
    assert layout.clips_per_s >= of_ideal * num_gpus / sum(SECONDS.values()) - 1e-9


def test_shares_need_room_for_all_stages_on_one_gpu() -> None:
    memory = dict.fromkeys(SECONDS, 12.0)
    assert best_layout(SECONDS, 8, memory, 40.0) == best_layout(SECONDS, 8, memory, 47.0)
    whole, shared = best_layout(SECONDS, 8, memory, 40.0), best_layout(SECONDS, 8, memory, 48.0)
    assert whole is not None and shared is not None
    assert (whole.num_gpus, whole.actors, shared.num_gpus) == (1.0, {"t2i": 1, "i2v": 2, "v2v": 4, "vfi": 1}, 0.25)
    assert best_layout(SECONDS, 3, memory, 40.0) is None


def test_a_forecast_adds_up() -> None:
    machines = Machines({"GPU": 8.0, "CPU": 64.0}, price_per_gpu_hour=2.0)
    found = forecast(_config(1.0), dict.fromkeys(SECONDS, 1000), _costs(size_bytes=1e6), machines)
    assert found["actors"] == {"t2i": 1, "i2v": 2, "v2v": 4, "vfi": 1}
    assert found["bottleneck"] == "v2v"
    assert found["clips_per_hour"] == pytest.approx(3600 * 4 / 18.5, rel=1e-3)
    assert found["wall_s"] == pytest.approx(999 * 18.5 / 4 + sum(SECONDS.values()), rel=1e-3)
    assert found["busy_gpu_hours"] == pytest.approx(1000 * sum(SECONDS.values()) / 3600, rel=1e-3)
    assert found["held_gpu_hours"] == pytest.approx(8 * found["wall_s"] / 3600, rel=1e-3)
    assert (found["storage_bytes"], found["cost"]) == (
        4_000_000_000,
        pytest.approx(2 * found["held_gpu_hours"], abs=0.01),
    )
    better = found["better"]
    assert better["clips_per_hour"] > 1.2 * found["clips_per_hour"]
    assert "v2v.pool.num_gpus=0.25" in better["settings"]
    # What it says is better is a configuration that makes that much.
    again = load_config(overrides=[f"{stage}.backend=fake" for stage in SECONDS] + better["settings"])
    shared = forecast(again, dict.fromkeys(SECONDS, 1000), _costs(), machines)
    assert (shared["bottleneck"], shared["better"], shared["storage_bytes"]) == ("all GPUs", None, None)
    assert shared["clips_per_hour"] == pytest.approx(better["clips_per_hour"], rel=0.05)


def test_stages_without_a_gpu_wait_for_cores() -> None:
    costs = _costs(cpu_s=10.0, load_s=3.0)
    found = forecast(_config(0.0, max_actors=1), dict.fromkeys(SECONDS, 10), costs, Machines({"CPU": 2.0, "GPU": 0.0}))
    assert (found["bottleneck"], found["better"], found["busy_gpu_hours"]) == ("all CPUs", None, 0.0)
    assert found["wall_s"] == pytest.approx(3.0 + sum(SECONDS.values()) + 9 * 4 * 10.0 / 2, rel=1e-3)
    done = forecast(_config(0.0), dict.fromkeys(SECONDS, 0), costs, Machines({"CPU": 64.0}))
    assert (done["wall_s"], done["clips_per_hour"]) == (0.0, None)


def test_what_a_run_took_is_said_in_the_words_of_its_forecast() -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    values = {"run_id": "r", "shard_id": 0, "attempt": 1, "prompt": "p", "seed": 1}
    rows = [
        ManifestRow(
            **values, clip_id=str(number), stage=stage, status="succeeded", size_bytes=100,
            started_at=start + timedelta(seconds=10 * number), duration_s=10.0, gpu_s=5.0,
        )
        for stage in ("t2i", "i2v")
        for number in range(4)
    ]  # fmt: skip
    rows.append(replace(rows[0], clip_id="bad", status="failed", size_bytes=None))
    tally = Tally.of_rows(rows)
    found = actual(tally, "i2v", {"resources": {"GPU": 2.0}, "price_per_gpu_hour": 3.0})
    assert (found["wall_s"], found["clips_per_hour"], found["storage_bytes"]) == (40.0, 360.0, 800)
    assert (found["busy_gpu_hours"], found["held_gpu_hours"], found["cost"]) == (0.0125, 0.0222, 0.07)
    assert actual(tally, "i2v", None)["cost"] is None
    assert costs_of(tally, ["t2i", "i2v", "v2v"]) == {
        "t2i": StageCost(12.5, 6.25, None, 100.0),
        "i2v": StageCost(10.0, 5.0, None, 100.0),
    }


def test_a_calibration_measures_each_stage_and_keeps_nothing(tmp_path: Path, fake_overrides: tuple[str, ...]) -> None:
    (tmp_path / "p.txt").write_text("one\ntwo\nthree\n")
    slow = ("i2v.fake.sleep_s=0.05", "i2v.fake.load_sleep_s=0.05")
    run = resolve_run(RunRequest(str(tmp_path / "p.txt"), str(tmp_path / "runs"), overrides=(*fake_overrides, *slow)))
    costs = calibrate(run, 2)
    assert list(costs.stages) == list(SECONDS)
    assert costs.stages["i2v"].seconds > 0.05 < costs.stages["i2v"].load_s
    assert all(cost.size_bytes and cost.cpu_s for cost in costs.stages.values())
    assert not (tmp_path / "runs").exists()
    assert list(read_costs(costs.as_option(), run.config).stages) == list(SECONDS)


@pytest.mark.parametrize(
    ("timings", "expected"),
    [
        ("t2i=1,i2v=2", "says nothing of v2v, vfi"),
        ("t2i=1,i2v=x,v2v=1,vfi=1", "'i2v=x' is not of the form"),
        ("t2i=0,i2v=1,v2v=1,vfi=1", "'t2i=0' is not of the form"),
        ("nowhere/run", "There is no run"),
    ],
)
def test_timings_that_say_too_little_are_refused(timings: str, expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        read_costs(timings, _config(0.0))
