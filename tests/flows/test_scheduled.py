"""The scheduled flows in this process: prompt files are known by their content, what failed or was left is finished."""

import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
from prefect.client.schemas.objects import State

from flows.nightly import nightly
from flows.retry_failed import retry_failed
from magicvideo_core.manifest.layout import manifest_key
from magicvideo_core.manifest.session import open_session
from magicvideo_core.manifest.table import read_manifests
from magicvideo_core.storage import Storage
from tasks.inbox import find_runs_to_retry
from tasks.selection import RetryRequest, resolve_retry

pytestmark = pytest.mark.usefixtures("local_ray", "prefect_api")


@pytest.fixture
def night(tmp_path: Path, fake_overrides: tuple[str, ...]) -> dict[str, Any]:
    """The parameters of a night over an empty inbox."""
    (tmp_path / "inbox").mkdir()
    overrides = [*fake_overrides, "t2i.fake.faults.bad=clip_error"]
    output = str(tmp_path / "runs")
    return {"inbox": str(tmp_path / "inbox"), "output": output, "overrides": overrides, "stages": "t2i,i2v"}


def state_of(flow: Any, **parameters: Any) -> State[Any]:
    state: State[Any] = flow(**parameters, return_state=True)
    return state


def kinds(state: State[Any]) -> list[str]:
    return [outcome["kind"] for outcome in state.result(raise_on_failure=False)]


def test_only_new_content_is_made_and_one_bad_file_keeps_no_other_back(night: dict[str, Any], tmp_path: Path) -> None:
    inbox = tmp_path / "inbox"
    assert state_of(nightly, **night).message == "nothing to do"
    (inbox / "a.txt").write_text("one\ntwo\n")
    (inbox / "notes.md").write_text("of no concern")
    assert kinds(state_of(nightly, **night)) == ["succeeded"]
    run = Storage(next((tmp_path / "runs").iterdir()))
    rows = read_manifests(run)
    # Under another name, newer, and beside files that cannot be used: still done, and the good new one is made.
    shutil.copy(inbox / "a.txt", inbox / "b.txt")
    (inbox / "c.csv").write_text("text\none\n")
    (inbox / "d.txt").write_text("three\nbad\n")
    state = state_of(nightly, **night)
    assert state.is_failed() and state.message is not None
    assert "1 finished before; 1 with clips that did not succeed; 1 ended by an error" in state.message
    assert "c.csv has no column 'prompt'" in state.message
    assert read_manifests(run) == rows and len(list((tmp_path / "runs").iterdir())) == 2
    # Clips that failed have their row: they are for retry-failed, the night is over.
    (inbox / "c.csv").unlink()
    assert kinds(state_of(nightly, **night)) == ["before", "before"]


def test_a_night_stops_at_its_deadline_and_the_next_one_goes_on(night: dict[str, Any], tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "inbox" / f"{name}.txt").write_text(f"{name} 1\n{name} 2\n")
    hold_file = tmp_path / "hold"
    hold_file.touch()
    night["overrides"].append(f"i2v.fake.hold_file={hold_file}")
    release = threading.Timer(4.0, hold_file.unlink)
    release.start()
    stopped = state_of(nightly, **night, deadline="3s")
    release.join()
    assert (stopped.name, stopped.is_completed(), kinds(stopped)) == ("Stopped", True, ["stopped"])
    assert kinds(state_of(nightly, **night)) == ["succeeded", "succeeded"]


def test_what_an_interrupted_run_left_is_finished_from_its_own_plan(night: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "inbox" / "a.txt").write_text("one\ntwo\nbad\n")
    assert "2 of 3 clips succeeded" in str(state_of(nightly, **night).message)
    run = Storage(next((tmp_path / "runs").iterdir()))
    (tmp_path / "inbox" / "a.txt").unlink()
    bad = next(row for row in read_manifests(run) if row.prompt == "bad" and row.stage == "t2i")
    # 1. As after a kill: i2v never came to the first shard. Quarantined clips are left alone.
    run.delete(manifest_key("i2v", 0, 1))
    assert not RetryRequest(run.uri).unfinished and not clip_ids(RetryRequest(run.uri))
    assert len(clip_ids(RetryRequest(run.uri, unfinished=True))) == 2
    # 2. Nor is a run that somebody works on touched.
    session = open_session(run, on_lost=print)
    assert find_runs_to_retry.fn(night["output"], True, False, 3) == []
    session.close()
    assert kinds(state_of(retry_failed, output=night["output"])) == ["succeeded"]
    assert len(read_manifests(run)) == 6
    assert state_of(retry_failed, output=night["output"]).message == "nothing to do"
    # 3. Asked for, quarantined clips are tried again, but not without end.
    tried = state_of(retry_failed, output=night["output"], quarantined=True)
    assert tried.is_failed() and "0 of 1 clips succeeded" in str(tried.message)
    again = next(row for row in read_manifests(run) if row.clip_id == bad.clip_id and row.stage == "t2i")
    assert again.attempt == bad.attempt + 1
    spent = RetryRequest(run.uri, quarantined=True, max_attempts=again.attempt)
    assert clip_ids(spent) == frozenset()


def clip_ids(request: RetryRequest) -> frozenset[str]:
    selection = resolve_retry(request).selection
    assert selection is not None
    return selection.clip_ids
