"""Runs for what measures, chooses and writes clips."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from core.dataset.small_runs import write_run

from magicvideo_core.clips import Clip
from magicvideo_core.prompts import clip_of_prompt
from magicvideo_core.storage import Storage


@pytest.fixture
def small_run(tmp_path: Path) -> Storage:
    """Nine clips that succeeded and one that failed."""
    clips = [clip_of_prompt(f"prompt {number}", number) for number in range(9)] + [clip_of_prompt("bad", 9)]

    def change(stage: str, clip: Clip) -> dict[str, Any]:
        return {"status": "failed", "error_type": "GateError"} if clip.prompt == "bad" and stage == "vfi" else {}

    return write_run(Storage(tmp_path / "small"), clips, change=change)


@pytest.fixture
def own_run(rendered_run: Storage, tmp_path: Path) -> Storage:
    """A copy of the rendered run, to be measured, damaged, exported."""
    shutil.copytree(rendered_run.uri, tmp_path / "rendered")
    return Storage(tmp_path / "rendered")
