"""Reading a run in columns says what reading it row by row says, whatever was torn, repeated or left in the journal."""

import random
from pathlib import Path

import pytest

from magicvideo_core.ids import STAGES
from magicvideo_core.manifest.durable import read_latest, read_rows
from magicvideo_core.manifest.journal import write_record
from magicvideo_core.manifest.layout import manifest_key
from magicvideo_core.manifest.scan import scan_run
from magicvideo_core.manifest.schema import STATUSES, ManifestRow
from magicvideo_core.manifest.table import write_manifest
from magicvideo_core.manifest.tally import tally_run
from magicvideo_core.storage import Storage


def _random_run(storage: Storage, seed: int) -> None:
    """Write a run such as many interruptions, retries and torn writes leave it."""
    rng = random.Random(seed)
    for stage in STAGES:
        for shard_id in range(3):
            names = [f"{shard_id}-{number}" for number in range(4)]
            for attempt in range(1, rng.randint(1, 4)):
                rows = [_row(stage, shard_id, attempt, name, rng) for name in names if rng.random() < 0.7]
                write_manifest(storage, stage, shard_id, attempt, rows)
                if rng.random() < 0.25:
                    key = manifest_key(stage, shard_id, attempt)
                    storage.write(key, storage.read(key)[:-9])
            for name in names:
                if rng.random() < 0.3:
                    write_record(storage, _row(stage, shard_id, rng.randint(1, 4), name, rng))


def _row(stage: str, shard_id: int, attempt: int, name: str, rng: random.Random) -> ManifestRow:
    values = {"run_id": "r", "shard_id": shard_id, "stage": stage, "attempt": attempt, "prompt": "p", "seed": 1}
    return ManifestRow(
        **values, clip_id=name, status=rng.choice((*STATUSES, "succeeded")), duration_s=float(rng.randint(1, 9))
    )


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.filterwarnings("ignore")
def test_columns_and_rows_say_the_same(tmp_path: Path, seed: int) -> None:
    storage = Storage(tmp_path)
    _random_run(storage, seed)
    scans = list(scan_run(storage, STAGES, ["duration_s"]))
    found = [row for scan in scans for table in scan.stages.values() for row in table.to_pylist()]
    expected = read_rows(storage, STAGES)
    assert len(found) == len(expected) > 20
    assert {(row["stage"], row["clip_id"], row["attempt"], row["status"], row["duration_s"]) for row in found} == {
        (row.stage, row.clip_id, row.attempt, row.status, row.duration_s) for row in expected
    }
    latest = {
        (stage, clip_id)
        for scan in scan_run(storage, STAGES, keep_stale_skips=True)
        for stage, table in scan.stages.items()
        for clip_id in table["clip_id"].to_pylist()
    }
    assert latest == set(read_latest(storage))
    total = tally_run(storage, STAGES).select("i2v", status="succeeded")
    done = [row for row in expected if (row.stage, row.status) == ("i2v", "succeeded")]
    assert (total.num_clips, total.duration_s) == (len(done), sum(row.duration_s or 0 for row in done))
