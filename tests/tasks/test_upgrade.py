"""A run that an older version began, with fewer settings and columns, is continued, read and cleaned up by this one."""

import io
import json
from dataclasses import replace
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest

from magicvideo_core.errors import RunError
from magicvideo_core.ids import recipe_hash
from magicvideo_core.manifest.garbage import find_garbage
from magicvideo_core.manifest.layout import run_json_key
from magicvideo_core.manifest.schema import MANIFEST_SCHEMA, ManifestRow
from magicvideo_core.manifest.table import read_manifests, write_manifest
from magicvideo_core.storage import Storage
from tasks.plan import write_run
from tasks.resolve import RunRequest, resolve_run
from tasks.selection import RetryRequest, resolve_retry
from tasks.status import run_status

# As if this version had added it.
NEW_SETTING = "batch_pixels"


@pytest.fixture
def request_of_old(tmp_path: Path, fake_overrides: tuple[str, ...]) -> RunRequest:
    """The request of a run that was planned, and failed in T2I, before there were `vfi.batch_pixels` and `reused_from`."""
    prompts = tmp_path / "p.txt"
    prompts.write_text("one\n")
    request = RunRequest(str(prompts), str(tmp_path), overrides=fake_overrides, run_id="old")
    run = resolve_run(request)
    write_run(run)
    storage, clip = run.storage, run.shards.clips[0]
    document = json.loads(storage.read(run_json_key()))
    settings = document["config"]["vfi"]
    del settings[NEW_SETTING]
    # As it was hashed then.
    left_out = ("pool", "gate", "fake", "revision", "weights")
    hashed = {name: value for name, value in settings.items() if name not in left_out}
    document["recipe_hashes"]["vfi"] = recipe_hash(hashed, "fake", document["recipe_hashes"]["v2v"])
    document["schema_version"] = 1
    storage.write(run_json_key(), json.dumps(document).encode())
    for stage in run.config.stages:
        status = "failed" if stage == "t2i" else "skipped"
        values = dict(run_id="old", clip_id=clip.clip_id, shard_id=0, stage=stage, attempt=1, status=status)
        row = ManifestRow.from_dict({**values, "prompt": clip.prompt, "seed": clip.seed, "error_type": "GateError"})
        written = write_manifest(storage, stage, 0, 1, [row])
        assert written is not None
        table = pq.read_table(written.uri).drop_columns(["reused_from"])
        buffer = io.BytesIO()
        pq.write_table(table, buffer)
        storage.write(written.uri.removeprefix(storage.uri).lstrip("/"), buffer.getvalue())
    return request


def test_an_older_run_goes_on(request_of_old: RunRequest) -> None:
    run = resolve_run(request_of_old)
    assert not run.is_new and not run.unplanned
    new = resolve_run(replace(request_of_old, run_id="new"))
    assert run.record.recipe_hashes["vfi"] != new.record.recipe_hashes["vfi"], "rows keep the recipe of their run"
    again = resolve_retry(RetryRequest(run.uri))
    assert again.selection is not None and len(again.selection.clip_ids) == 1
    changed = replace(request_of_old, overrides=(*request_of_old.overrides, "vfi.batch_pixels=5"))
    with pytest.raises(RunError, match=r"started with other values of vfi\.batch_pixels"):
        resolve_run(changed)


def test_an_older_run_is_read(request_of_old: RunRequest) -> None:
    storage = Storage(f"{request_of_old.output}/old")
    assert {row.reused_from for row in read_manifests(storage)} == {None}
    status = run_status(storage)
    assert (status["stages"]["t2i"]["failed"], status["stages"]["vfi"]["skipped"]) == (1, 1)
    assert find_garbage(storage).keys() == []
    # Beside manifests of this version, in one table.
    write_manifest(storage, "t2i", 0, 2, [*read_manifests(storage, "t2i")])
    folder = storage.join("manifests", "t2i", "*.parquet")
    with duckdb.connect() as connection:
        table = connection.sql(f"SELECT * FROM read_parquet('{folder}', union_by_name=true)").to_arrow_table()
    assert table.num_rows == 2 and set(MANIFEST_SCHEMA.names) == set(table.column_names)
