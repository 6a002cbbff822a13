"""Scoring: counts, groups, intervals and tables; and prompt sets that are the same every time."""

import json
from pathlib import Path

import numpy as np
import pytest

from magicvideo_core.evaluation.prompt_sets import evaluation_prompts, write_prompt_file
from magicvideo_core.evaluation.scoring import score
from magicvideo_core.evaluation.tables import report_table
from magicvideo_core.moving_shapes.renderer import keyframe_times, render
from magicvideo_core.moving_shapes.world import parse_prompt
from magicvideo_core.prompts import read_prompts


def _frames(prompt: str) -> np.ndarray:
    scene = parse_prompt(prompt)
    assert scene is not None
    return render(scene, keyframe_times(), 64)


def test_trained_and_held_out_triples_are_counted_apart() -> None:
    trained = "a big red circle moving left on a navy background"
    held_out = "a small dotted blue circle spinning on a gray background"
    wrong = "a big red circle moving right on a navy background"
    report = score([(trained, _frames(trained)), (held_out, _frames(held_out)), (wrong, _frames(trained))])
    assert (report.count("all", "trained").correct, report.count("all", "trained").judged) == (1, 2)
    assert (report.count("all", "held_out").correct, report.count("all", "held_out").judged) == (1, 1)
    assert report.count("motion").correct == 2 and report.count("colour").correct == 3
    assert report.measures()["displacement_of_nominal"] == pytest.approx(0.0, abs=0.05)


def test_tables_are_markdown_and_json() -> None:
    prompt = "a big red circle moving left on a navy background"
    report = score([(prompt, _frames(prompt)[:1]), ("a dog", _frames(prompt))], title="stills")
    table = report_table(report)
    assert "### stills" in table and "| colour | 100.0 % (21–100), 1/1 |" in table
    assert "| motion | – |" in table and "Not judged: 1" in table
    values = json.loads(report.as_json())
    assert values["attributes"]["shape"]["trained"]["correct"] == 1
    assert values["attributes"]["motion"]["both"]["share"] is None
    assert len(values["not_judged"]) == 1


def test_one_and_two_objects_are_counted_apart() -> None:
    one = "a big red circle moving left on a navy background"
    two = "a small striped red circle moving left and a big green cross standing still on a navy background"
    report = score([(one, _frames(one)), (two, _frames(two))])
    assert report.object_counts == [1, 2]
    assert report.count("shape", num_objects=1).judged == report.count("shape", num_objects=2).judged == 1
    assert {"One object:", "Two objects:"} <= set(report_table(report).splitlines())


def test_evaluation_prompts_are_the_same_every_time_half_held_out_and_different() -> None:
    prompts = evaluation_prompts(40, seed=3)
    assert prompts == evaluation_prompts(40, seed=3) != evaluation_prompts(40, seed=4)
    assert len(set(prompts)) == 40
    held_out = [scene.held_out for prompt in prompts if (scene := parse_prompt(prompt))]
    assert held_out == [False, True] * 20
    assert all(" and a " in prompt for prompt in evaluation_prompts(6, 0, 2))


def test_more_prompts_than_the_world_has_are_refused() -> None:
    with pytest.raises(ValueError, match="different prompts"):
        evaluation_prompts(1200, held_out=True)


def test_a_written_prompt_file_reads_back_with_its_seeds(tmp_path: Path) -> None:
    path = write_prompt_file(tmp_path / "sets" / "prompts.jsonl", 10, seed=1)
    clips = read_prompts(str(path))
    assert [clip.prompt for clip in clips] == evaluation_prompts(10, 1)
    assert len({clip.seed for clip in clips}) == 10
    assert [clip.extra["held_out"] for clip in clips] == [False, True] * 5
