"""Ray Data reads a run's manifests as they are, those without errors and those with nothing else together."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from magicvideo_core.manifest.schema import ManifestRow
from magicvideo_core.manifest.table import write_manifest
from magicvideo_core.storage import Storage


@pytest.mark.usefixtures("local_ray")
def test_ray_data_reads_all_manifests_together(tmp_path: Path) -> None:
    import ray

    storage = Storage(tmp_path)
    values: dict[str, Any] = {"run_id": "r", "shard_id": 0, "attempt": 1, "prompt": "a cat", "seed": 1}
    times = {"started_at": datetime.now(UTC)}
    good = ManifestRow(**values, **times, clip_id="a", stage="t2i", status="succeeded", size_bytes=5)
    bad = ManifestRow(**values, clip_id="b", stage="i2v", status="failed", error_type="GateError")
    write_manifest(storage, "t2i", 0, 1, [good])
    write_manifest(storage, "i2v", 0, 1, [bad])
    write_manifest(storage, "v2v", 0, 1, [])
    rows = ray.data.read_parquet(storage.join("manifests"), override_num_blocks=1).take_all()
    assert {(row["clip_id"], row["size_bytes"], row["error_type"]) for row in rows} == {
        ("a", 5, None),
        ("b", None, "GateError"),
    }
