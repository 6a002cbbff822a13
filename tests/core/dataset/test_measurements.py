"""What is measured of clips: facts that tell the cases apart, durable by shard, measured once per artifact."""

import numpy as np
import pytest

from flows.cli import run_command
from magicvideo_core.dataset.facts import THUMBNAIL_BYTES, judge_prompt, measure_frames
from magicvideo_core.dataset.measurements import measure_run, read_measurements
from magicvideo_core.errors import RunError
from magicvideo_core.manifest.audit import audit_run
from magicvideo_core.manifest.table import read_manifests
from magicvideo_core.moving_shapes.renderer import render
from magicvideo_core.moving_shapes.world import parse_prompt
from magicvideo_core.storage import Storage

PROMPT = "a big striped red circle moving right on a navy background"


def scene(num_frames: int = 10, pixels: int = 64) -> np.ndarray:
    parsed = parse_prompt(PROMPT)
    assert parsed is not None
    return render(parsed, [index / max(num_frames - 1, 1) for index in range(num_frames)], pixels)


def test_each_fact_tells_its_case_apart() -> None:
    moving = scene()
    facts = measure_frames(moving)
    frozen = measure_frames(np.repeat(moving[:1], 10, axis=0))
    assert (frozen["motion"], frozen["flicker"], frozen["largest_change"]) == (0.0, 0.0, 0.0) and facts["motion"] > 0.5
    blurred = (moving.astype(np.float32) + np.roll(moving, 1, 1) + np.roll(moving, 1, 2)) / 3
    assert measure_frames(blurred.astype(np.uint8))["sharpness"] < 0.8 * facts["sharpness"]
    # What moves is no flicker; lamps that go on and off are.
    lamp = np.clip(moving.astype(int) + np.array([0, 20] * 5)[:, None, None, None], 0, 255).astype(np.uint8)
    assert facts["flicker"] < 1 and measure_frames(lamp)["flicker"] > 30
    cut = np.concatenate([moving[:5], 255 - moving[5:]])
    assert measure_frames(cut)["largest_change"] > 50 > facts["largest_change"]
    dark = measure_frames(moving // 4)
    assert dark["brightness"] < facts["brightness"] / 2 and dark["contrast"] < facts["contrast"] / 2
    assert len(facts["thumbnails"]) == THUMBNAIL_BYTES


def test_an_image_and_a_tiny_frame_are_measured_too() -> None:
    still = measure_frames(scene(1))
    assert still["sharpness"] > 0 and (still["motion"], still["flicker"]) == (None, None)
    assert measure_frames(np.full((2, 2, 3, 3), 7, np.uint8))["brightness"] == pytest.approx(7, abs=0.01)


def test_the_oracle_is_asked_about_prompts_of_its_world_alone() -> None:
    frames = scene()
    verdicts = judge_prompt(PROMPT, frames)
    assert verdicts["oracle_all"] is True and verdicts["held_out"] is False and verdicts["oracle_motion"] is True
    assert judge_prompt(PROMPT.replace("red", "green"), frames)["oracle_colour"] is False
    assert judge_prompt("a dog", frames) == {} == judge_prompt(PROMPT, frames[:, :32])


def test_a_run_is_measured_once_and_what_changed_again(own_run: Storage, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["measure", own_run.uri]) == 0
    assert "2 clips of stage vfi, 2 of them measured now" in capsys.readouterr().out
    table = read_measurements(own_run, "vfi", 0)
    assert table["oracle_all"].to_pylist() == [True, True] and table["error"].null_count == 2
    assert measure_run(own_run).num_measured == 0 and measure_run(own_run, again=True).num_measured == 2
    assert audit_run(own_run).ok, "measurements belong to a run"

    own_run.write("measurements/vfi/shard-00000.parquet", b"torn")
    assert measure_run(own_run).num_measured == 2 and read_measurements(own_run, "vfi", 0).equals(table)


def test_a_damaged_artifact_is_a_row_with_an_error(own_run: Storage, capsys: pytest.CaptureFixture[str]) -> None:
    row = next(row for row in read_manifests(own_run, "t2i") if row.status == "succeeded")
    key = f"artifacts/t2i/{str(row.artifact_uri).rpartition('/')[2]}"
    data = own_run.read(key)
    own_run.write(key, data[:-3])
    assert run_command(["measure", own_run.uri, "--stage", "t2i"]) == 1
    assert f"clip {row.clip_id}" in capsys.readouterr().out
    assert read_measurements(own_run, "t2i", 0)["error"].null_count == 1
    own_run.write(key, data)
    assert measure_run(own_run, "t2i").num_measured == 1, "mended, it is measured"
    with pytest.raises(RunError, match="has no stage 'audio'"):
        measure_run(own_run, "audio")
