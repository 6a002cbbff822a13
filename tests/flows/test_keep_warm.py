"""`--keep-warm` end to end: the actors of one run make the clips of the next."""

from pathlib import Path

import pytest

from flows.cli import run_command
from flows.commands import WRONG_INPUT
from flows.generate import generate
from magicvideo_core.manifest.table import read_manifests
from magicvideo_core.storage import Storage
from tasks.pools.warm import end_warm, list_warm


@pytest.mark.usefixtures("local_ray", "prefect_api")
def test_the_next_run_works_with_the_actors_of_the_last(fake_overrides: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("one\ntwo\n")
    request = {"prompts": str(tmp_path / "prompts.txt"), "output": str(tmp_path), "overrides": list(fake_overrides)}
    for run_id in ("first", "second"):
        assert generate(**request, run_id=run_id, keep_warm="5m")["succeeded"]
    first, second = (
        {(row.stage, row.actor_id) for row in read_manifests(Storage(tmp_path / run_id))}
        for run_id in ("first", "second")
    )
    assert first == second
    assert {actor.stage for actor in list_warm()} == {"t2i", "i2v", "v2v", "vfi"}
    assert end_warm() == 4


def test_the_option_says_what_it_took_for_its_value(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["generate", "--keep-warm", "prompts.txt", "--output", "runs"]) == WRONG_INPUT
    assert "'prompts.txt' is no duration" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["generate", "--keep-warm"], ["pools"]])
def test_without_a_cluster_nothing_can_wait(
    words: list[str],
    fake_overrides: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import ray

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    if words[0] == "generate":
        (tmp_path / "prompts.txt").write_text("one\n")
        words[1:1] = [str(tmp_path / "prompts.txt"), "--output", str(tmp_path / "runs"), "--run-id", "run"]
        words += [word for each in fake_overrides for word in ("--set", each)]
    assert run_command(words) == WRONG_INPUT
    assert "RAY_ADDRESS" in capsys.readouterr().err
    assert not (tmp_path / "runs" / "run").exists()
