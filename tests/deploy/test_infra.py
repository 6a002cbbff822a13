"""infra/ against what it is for: settings that load, groups that offer what pools ask for, metrics that there are."""

import json
import re
from pathlib import Path
from typing import Any

import yaml

from magicvideo_core.config import load_config

ROOT = Path(__file__).parents[2]
INFRA = ROOT / "infra"


def test_every_stage_finds_its_worker_group_and_may_grow_to_its_bound(tmp_path: Path) -> None:
    settings = list(yaml.safe_load_all((INFRA / "kubernetes" / "settings.yaml").read_text()))
    texts = {key: text for document in settings for key, text in document["data"].items()}
    (tmp_path / "cluster.toml").write_text(texts["cluster.toml"])
    config = load_config("magicvideo2", str(tmp_path / "cluster.toml"), ())
    cluster = next(yaml.safe_load_all((INFRA / "kubernetes" / "raycluster.yaml").read_text()))
    groups: dict[str, Any] = {group["groupName"]: group for group in cluster["spec"]["workerGroupSpecs"]}
    for stage in config.stages:
        pool, group = config.stage(stage).pool, groups[stage]
        offered = json.loads(json.loads(group["rayStartParams"]["resources"]))
        assert pool.resources == offered == {f"stage_{stage}": 1}
        assert (group["minReplicas"], group["maxReplicas"]) == (pool.min_actors, pool.max_actors)
        (node,) = group["template"]["spec"]["containers"]
        assert float(node["resources"]["limits"]["nvidia.com/gpu"]) == pool.num_gpus
        assert int(node["resources"]["limits"]["cpu"]) >= pool.num_cpus


def test_dashboard_and_alerts_know_only_metrics_that_there_are() -> None:
    texts = [(INFRA / "monitoring" / name).read_text() for name in ("dashboard.json", "alerts.yml")]
    used = {name for text in texts for name in re.findall(r"\bray_(magicvideo_\w+)", text)}
    # The table that the metrics are documented in, whose names a test scrapes.
    table = (ROOT / "docs" / "observability.md").read_text()
    known = set(re.findall(r"\| `ray_(magicvideo_\w+)`", table)) | {"magicvideo_clip_duration_seconds_bucket"}
    assert used and used <= known


def test_ray_and_prefect_are_of_the_version_that_is_installed() -> None:
    constraints = (ROOT / "constraints.txt").read_text().splitlines()
    cluster = next(yaml.safe_load_all((INFRA / "kubernetes" / "raycluster.yaml").read_text()))
    assert f"ray=={cluster['spec']['rayVersion']}" in constraints
