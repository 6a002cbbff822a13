"""What can be watched of a run: Ray's Prometheus endpoint, Prefect's artifacts, and the logs."""

import json
import re
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flows.generate import generate

pytestmark = pytest.mark.usefixtures("local_ray", "prefect_api")
PROMPTS = ("one", "two", "three bad", "four")
# Ray's own period of reports, twice, on a busy machine.
SCRAPE_TIMEOUT_S = 40.0
_SAMPLE = re.compile(r"^ray_(magicvideo_\w+)\{(.*)\} (\S+)$")


@pytest.fixture(scope="module")
def watched(fake_overrides: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The summary of a finished run in which one clip fails twice at i2v, and is quarantined for it."""
    folder = tmp_path_factory.mktemp("watched")
    (folder / "prompts.txt").write_text("\n".join(PROMPTS))
    faults = ("i2v.fake.faults.bad=clip_error", "i2v.pool.max_clip_attempts=2", "v2v.fake.sleep_s=0.2")
    overrides = (*fake_overrides, *faults)
    return generate(str(folder / "prompts.txt"), str(folder), overrides=overrides, run_id="watched", shard_size=2)


def scraped(run_id: str) -> Iterator[dict[tuple[str, ...], float]]:
    """Give what the endpoint says of a run, again and again: values by name and by the tags that are ours."""
    import ray

    node = ray.nodes()[0]
    ends_s = time.monotonic() + SCRAPE_TIMEOUT_S
    while time.monotonic() < ends_s:
        url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
        with urllib.request.urlopen(url, timeout=10) as answer:
            lines = [match for line in answer.read().decode().splitlines() if (match := _SAMPLE.match(line))]
        values = {}
        for match in lines:
            tags = dict(re.findall(r'(\w+)="([^"]*)"', match[2]))
            if tags["run_id"] == run_id:
                ours = [tags[name] for name in ("stage", "status", "state", "type", "le") if name in tags]
                values[match[1], *ours] = float(match[3])
        yield values
        time.sleep(0.5)


def test_the_logs_say_what_became_of_each_clip(watched: dict[str, Any]) -> None:
    files = Path(watched["run_uri"], "logs").iterdir()
    records = {path.name: [json.loads(line) for line in path.read_text().splitlines()] for path in files}
    assert {name.partition("-")[0] for name in records} == {"driver", "i2v", "t2i", "v2v", "vfi"}
    driver = records["driver-00001.jsonl"]
    assert {record["run"] for lines in records.values() for record in lines} == {"watched"}
    messages = [record["message"] for record in driver]
    # Ray may have been connected before the run was taken, and before this file could be written.
    assert messages.index("ray connected") < messages.index("actor loaded") < messages.index("clip finished")
    bad = [record for record in driver if record.get("error_type") == "GateError"]
    tries, end = [r for r in bad if r["message"] == "try failed"], bad[-1]
    assert [(r["stage"], r["shard"], r["attempt"], r["tries_before"]) for r in tries] == [
        ("i2v", 1, 1, n) for n in (0, 1)
    ]
    assert (end["message"], end["clip"], end["status"]) == ("clip finished", tries[0]["clip"], "quarantined")
    in_actor = [r for name in records if name.startswith("i2v") for r in records[name] if r["level"] == "warning"]
    assert [(r["clip"], r["shard"], r["attempt"], r["actor"]) for r in in_actor] == [
        (end["clip"], 1, 1, end["actor"]) for _ in tries
    ]
    assert "Traceback" in in_actor[0]["message"]
    assert sum(record.get("status") == "succeeded" for record in driver) == 4 + 3 + 3 + 3


def test_prometheus_finds_what_the_run_did(watched: dict[str, Any]) -> None:
    for found in scraped("watched"):
        if found.get(("magicvideo_clips_finished_total", "vfi", "succeeded")) == 3:
            break
    else:
        raise AssertionError("Ray's endpoint never showed the finished clips")
    assert found["magicvideo_clips_finished_total", "t2i", "succeeded"] == 4
    assert found["magicvideo_clips_finished_total", "i2v", "quarantined"] == 1
    assert found["magicvideo_failures_total", "i2v", "GateError"] == 2
    assert found["magicvideo_clips", "vfi", "succeeded"] == 3
    assert found["magicvideo_clips", "vfi", "skipped"] == 1
    assert found["magicvideo_clips", "vfi", "pending"] == 0
    assert found["magicvideo_clip_duration_seconds_count", "v2v"] == 3
    assert found["magicvideo_clip_duration_seconds_bucket", "v2v", "0.1"] == 0
    assert found["magicvideo_clip_duration_seconds_bucket", "v2v", "+Inf"] == 3
    assert found["magicvideo_queue_clips", "t2i"] == 0
    busy_s, loaded_s = (found[f"magicvideo_actor_{kind}_seconds_total", "v2v"] for kind in ("busy", "loaded"))
    assert 3 * 0.2 <= busy_s <= loaded_s
    assert 0 <= found["magicvideo_busy_fraction", "v2v"] <= 1


def test_prefect_shows_progress_and_failures(watched: dict[str, Any]) -> None:
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        flow_runs = client.read_flow_runs()
        mine = next(run for run in flow_runs if run.name == "generate-watched")
        found = {
            each["key"]: each
            for each in client.request("POST", "/artifacts/filter", json={}).json()
            if each["flow_run_id"] == str(mine.id)
        }
    assert set(found) == {"progress-watched", "stages-watched", "failures-watched"}
    assert found["progress-watched"]["data"] == 100.0
    stages = {row["stage"]: row for row in json.loads(found["stages-watched"]["data"])}
    assert (stages["i2v"]["quarantined"], stages["vfi"]["succeeded"]) == (1, 3)
    [failure] = json.loads(found["failures-watched"]["data"])
    assert (failure["stage"], failure["error"], failure["prompt"]) == ("i2v", "GateError", "three bad")
    assert watched["run_uri"] in failure["manifests"]
