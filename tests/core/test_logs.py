"""Structured logs: what a line says, and which run it belongs to."""

import json
import logging
from pathlib import Path

import pytest

from magicvideo_core.logs import RunLog, event, log_fields
from magicvideo_core.manifest.layout import is_log_key
from magicvideo_core.storage import Storage


def lines(folder: Path, name: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "logs" / f"{name}.jsonl").read_text().splitlines()]


def test_lines_carry_context_and_no_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2hunter2")
    log = RunLog("mine")
    with log_fields(stage="t2i", shard=3):
        event("before the run is taken", clip="a")
        log.open(Storage(tmp_path), "driver")
        try:
            raise RuntimeError("with hunter2hunter2\nin it")
        except RuntimeError:
            logging.getLogger("tasks.anything").exception(
                "failed at s3://me:pass@host/x", extra={"fields": {"clip": "b"}}
            )
    event("a value", error_message="token=hunter2hunter2")
    with log_fields(run="another"):
        event("not of this run")
    log.close()
    event("after its end")
    first, second, third = lines(tmp_path, "driver")
    assert (first["run"], first["stage"], first["shard"], first["clip"]) == ("mine", "t2i", 3, "a")
    assert (first["level"], first["message"]) == ("info", "before the run is taken")
    assert str(first["time"]).endswith("+00:00")
    assert (second["level"], second["clip"], second["stage"]) == ("error", "b", "t2i")
    assert "Traceback" in str(second["message"]) and "stage" not in third
    assert "hunter2" not in json.dumps([second, third]) and "pass@" not in json.dumps(second)


def test_a_run_on_remote_storage_has_no_file(tmp_path: Path) -> None:
    log = RunLog("mine")
    log.open(Storage("memory://bucket/mine"), "driver")
    event("kept nowhere")
    log.close()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("key", "expected"), [("logs/t2i-1.jsonl", True), ("logs/x.jsonl.1", True), ("logs/x", False)])
def test_keys_of_logs(key: str, expected: bool) -> None:
    assert is_log_key(key) is expected
