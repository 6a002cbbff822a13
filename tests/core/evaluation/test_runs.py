"""Evaluating a run: each stage's artifacts against their prompts, side by side, and what could not be judged."""

import json
import shutil
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from magicvideo_core.errors import RunError
from magicvideo_core.evaluation.runs import WHAT, RunEvaluation, evaluate_run, write_report_files
from magicvideo_core.storage import Storage


@pytest.fixture(scope="module")
def every_stage(rendered_run: Storage) -> RunEvaluation:
    """The verdict on all stages of the rendered run."""
    return evaluate_run(rendered_run.uri, "all")


@pytest.mark.parametrize("stage", ["t2i", "v2v", "vfi"])
def test_a_rendered_run_is_right_in_everything(every_stage: RunEvaluation, stage: str) -> None:
    report = every_stage.reports[stage]
    assert report.count("all", "trained").correct == report.count("all", "held_out").correct == 1
    assert report.count("motion").judged == (0 if stage == "t2i" else 2)
    assert len(report.not_judged) == 1


def test_one_stage_alone_gives_what_it_gives_beside_the_others(
    rendered_run: Storage, every_stage: RunEvaluation
) -> None:
    alone = evaluate_run(rendered_run.uri, "i2v")
    assert alone.reports["i2v"].as_dict() == every_stage.reports["i2v"].as_dict()
    assert json.loads(alone.as_json())["num_samples"] == 2
    assert "| colour | 100.0 % (21–100), 1/1 | 100.0 % (21–100), 1/1 | 100.0 % (34–100), 2/2 |" in alone.as_markdown()


def test_all_stages_stand_in_one_table_one_document_and_one_plot(every_stage: RunEvaluation) -> None:
    assert list(every_stage.reports) == list(WHAT)
    table = every_stage.as_markdown().splitlines()
    assert any(line.startswith("| attribute | triples | T2I, image | I2V, keyframes |") for line in table)
    assert sum(line.startswith("| motion |") for line in table) == 3
    stages = json.loads(every_stage.as_json())["stages"]
    assert stages["vfi"]["objects"]["1"]["attributes"]["all"]["both"]["judged"] == 2
    root = ElementTree.fromstring(every_stage.as_svg())
    assert "all at once" in [each.text for each in root.iter() if each.tag.endswith("text")]


def test_rendered_clips_keep_their_reference_and_move_as_they_should(every_stage: RunEvaluation) -> None:
    values = every_stage.reports["v2v"].measures()
    assert values["first_frame_psnr"] == 60 and values["first_frame_iou"] == 1
    # The fixture's big circle leaves the canvas.
    assert values["displacement_of_nominal"] == pytest.approx(1, abs=0.2)
    assert values["rotation_of_nominal"] == pytest.approx(1, abs=0.1)
    assert values["direction_right"] == 1 and values["flicker"] is not None and values["flicker"] < 1
    assert every_stage.reports["t2i"].measures()["first_frame_psnr"] is None


def test_texture_recovery_counts_where_the_low_resolution_has_lost_it(
    rendered_run: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    for threshold, counted in ((0.0, False), (9.0, True)):
        monkeypatch.setattr("magicvideo_core.evaluation.measures.LOST_TEXTURE", threshold)
        reports = evaluate_run(rendered_run.uri, "all").reports
        for name in ("bicubic", "v2v", "vfi"):
            textured = [each.measures for each in reports[name].samples if "texture_of_truth" in each.measures]
            assert textured
            for measures in textured:
                expected = measures["texture_of_truth"] if counted else None
                assert measures.get("texture_where_lost") == expected


def test_a_moved_run_with_a_lost_artifact_is_still_evaluated(rendered_run: Storage, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(rendered_run.uri, moved)
    shutil.rmtree(moved / "artifacts" / "i2v")
    next((moved / "artifacts" / "vfi").iterdir()).write_bytes(b"no video")
    evaluation = evaluate_run(str(moved))
    assert len(evaluation.reports["vfi"].samples) == 1 and len(evaluation.reports["vfi"].not_judged) == 2
    markdown, values, plot = write_report_files(Storage(moved), evaluation, "vfi")
    assert Path(markdown).read_text().startswith("### Run rendered") and Path(values).exists()
    assert Path(plot).read_text().startswith("<svg")


def test_places_without_a_finished_stage_are_refused(rendered_run: Storage, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no run at"):
        evaluate_run(str(tmp_path))
    with pytest.raises(RunError, match="choose one of"):
        evaluate_run(rendered_run.uri, "upscale")
