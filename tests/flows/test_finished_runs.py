"""retry, verify and --reuse as commands: a clip that failed for its input, mended; a run damaged; a run taken over."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flows.cli import run_command
from magicvideo_core.manifest.table import read_manifests
from magicvideo_core.media import encode_png
from magicvideo_core.storage import Storage


def run_json(capsys: pytest.CaptureFixture[str], words: list[str], expected_code: int) -> Any:
    """Run a command with --json; returns its document."""
    assert run_command(words) == expected_code
    return json.loads(capsys.readouterr().out)


@pytest.mark.usefixtures("local_ray", "prefect_api")
def test_mend_retry_verify_and_reuse(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], fake_overrides: tuple[str, ...]
) -> None:
    picture = tmp_path / "picture.png"
    picture.write_bytes(b"not a picture")
    rows = [{"prompt": "one", "id": "first"}, {"prompt": "two", "id": "second", "image": str(picture)}]
    prompts = tmp_path / "p.jsonl"
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    sets = [word for override in fake_overrides for word in ("--set", override)]
    generate = ["generate", str(prompts), "--output", str(tmp_path), "--json", *sets]
    first = run_json(capsys, [*generate, "--run-id", "night"], 1)
    assert first["failures"] == [{"stage": "t2i", "error_type": "GivenMediaError", "status": "failed", "num_clips": 1}]
    uri = first["run_uri"]

    # Nothing to do in this selection; the exit code still says that a clip did not succeed.
    assert run_json(capsys, ["retry", uri, "--clip", "first", "--json"], 1)["retried"]["num_clips"] == 0
    assert run_command(["retry", uri, "--stage", "i2v"]) == 1
    assert "1 clip failed outside of this selection" in capsys.readouterr().out

    picture.write_bytes(encode_png(np.full((16, 16, 3), (200, 30, 30), np.uint8)))
    again = run_json(capsys, ["retry", uri, "--json"], 0)
    assert (again["retried"], again["succeeded"]) == ({"num_clips": 1, "succeeded": 1}, True)
    # The clip that had succeeded is what the retry did not start over with.
    assert (again["saved"]["num_continued"], again["saved"]["num_reused"]) == (1, 0)
    attempts = {(row.stage, row.source_id): row.attempt for row in read_manifests(Storage(uri))}
    assert {attempts[stage, "first"] for stage in ("t2i", "i2v", "v2v", "vfi")} == {1}
    assert {attempts[stage, "second"] for stage in ("t2i", "i2v", "v2v", "vfi")} == {2}
    assert run_command(["retry", uri]) == 0
    assert "Nothing to retry: every clip succeeded" in capsys.readouterr().out

    assert run_json(capsys, ["verify", uri, "--json"], 0)["num_artifacts"] == 8
    other = run_json(capsys, [*generate, "--run-id", "other", "--set", "vfi.interp_factor=2", "--reuse", uri], 0)
    # t2i of the second clip is given: it is made again, to the same bytes, so what follows it is taken over.
    assert other["saved"]["num_reused"] == 5
    page = Path(other["report_uri"]).read_text()
    assert "spared by reuse of 5 artifacts" in page

    key = Storage(uri).list("artifacts/vfi")[0]
    Storage(uri).write(key, Storage(uri).read(key)[:-1])
    assert run_command(["verify", uri]) == 1
    printed = capsys.readouterr().out
    assert f"different: {key}" in printed and "problems: 1" in printed
