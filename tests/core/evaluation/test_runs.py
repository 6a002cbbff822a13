"""Evaluating a run: each stage's artifacts against their prompts, and what could not be judged."""

import shutil
from pathlib import Path

import pytest

from magicvideo_core.errors import RunError
from magicvideo_core.evaluation.runs import evaluate_run, write_report_files
from magicvideo_core.storage import Storage


@pytest.mark.parametrize("stage", ["t2i", "v2v", "vfi"])
def test_a_rendered_run_is_right_in_everything(rendered_run: Storage, stage: str) -> None:
    report = evaluate_run(rendered_run.uri, stage)
    assert report.count("all", "trained").correct == report.count("all", "held_out").correct == 1
    assert report.count("motion").judged == (0 if stage == "t2i" else 2)
    assert len(report.not_judged) == 1


def test_a_moved_run_with_a_lost_artifact_is_still_evaluated(rendered_run: Storage, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(rendered_run.uri, moved)
    shutil.rmtree(moved / "artifacts" / "i2v")
    next((moved / "artifacts" / "vfi").iterdir()).write_bytes(b"no video")
    report = evaluate_run(str(moved))
    assert len(report.samples) == 1 and len(report.not_judged) == 2
    markdown, values = write_report_files(Storage(moved), report, "vfi")
    assert Path(markdown).read_text().startswith("### Run rendered") and Path(values).exists()


def test_places_without_a_finished_stage_are_refused(rendered_run: Storage, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no run at"):
        evaluate_run(str(tmp_path))
    with pytest.raises(RunError, match="choose one of"):
        evaluate_run(rendered_run.uri, "upscale")
