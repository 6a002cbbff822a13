"""Sessions: one driver per run, taken over from the dead at once and from the silent after a while."""

import json
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from magicvideo_core.errors import RunError, RunStoppedError
from magicvideo_core.manifest import session as session_module
from magicvideo_core.manifest.layout import session_key
from magicvideo_core.manifest.session import FoundDone, Session, open_session, read_sessions, wait_until_free
from magicvideo_core.storage import Storage


@pytest.fixture(params=["local", "memory", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "s3":
        return Storage(request.getfixturevalue("s3").uri(f"{tmp_path.name}/run"))
    return Storage(tmp_path / "run" if request.param == "local" else f"memory://{tmp_path.name}/run")


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds become hundredths."""
    for name in ("HEARTBEAT_S", "TAKEOVER_AFTER_S", "_WATCH_EVERY_S", "_SETTLE_S"):
        monkeypatch.setattr(session_module, name, getattr(session_module, name) / 100)


def must_not_be_lost(error: RunStoppedError) -> None:
    raise AssertionError(error)


def open_silent(storage: Storage, *, here: bool) -> str:
    """Leave a session of a driver that gives no sign of life, on this machine or on another; returns its token."""
    record = replace(session_module._new_record(1), machine=session_module._machine() if here else "other")
    storage.write(session_key(1), record.to_bytes())
    return record.token


def test_sessions_are_numbered_and_record_how_they_ended(storage: Storage) -> None:
    assert wait_until_free(storage) == 0
    first = open_session(storage, must_not_be_lost)
    first.note_found_done(FoundDone(3, 1.5, 0.5))
    first.close()
    first.close()
    second = open_session(storage, must_not_be_lost)
    assert (first.number, second.number) == (1, 2)
    found = read_sessions(storage)
    assert [(record.number, record.ended_at is None) for record in found] == [(1, False), (2, True)]
    assert [record.found_done for record in found] == [FoundDone(3, 1.5, 0.5), FoundDone()]
    second.close()


def test_a_run_that_is_worked_on_is_refused_and_nothing_is_written(storage: Storage) -> None:
    session = open_session(storage, must_not_be_lost)
    before = storage.list()
    for refused in (lambda: wait_until_free(storage), lambda: open_session(storage, must_not_be_lost)):
        with pytest.raises(RunError, match=r"being worked on by pid \d+ on .* since .*: wait for it or stop it"):
            refused()
    assert storage.list() == before
    session.close()
    open_session(storage, must_not_be_lost).close()


def test_a_silent_driver_elsewhere_is_taken_over_and_stops_when_it_speaks_again(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_module, "TAKEOVER_AFTER_S", 0.0)
    lost: list[RunStoppedError] = []
    was_lost = threading.Event()
    # A heartbeat so slow that it seems dead: like a machine that was suspended.
    open_silent(storage, here=False)
    [silent] = read_sessions(storage)
    newer = open_session(storage, must_not_be_lost)
    assert newer.number == 2
    awake = Session(storage, silent, lambda error: (lost.append(error), was_lost.set())[0])
    assert was_lost.wait(5)
    assert "was taken over by pid" in str(lost[0])
    awake.close()
    assert [record.ended_at is None for record in read_sessions(storage)] == [True, True], "it writes nothing any more"
    newer.close()


def test_of_two_that_wrote_the_same_number_the_first_one_stops(storage: Storage) -> None:
    was_lost = threading.Event()
    first = open_session(storage, lambda error: was_lost.set())
    storage.write(session_key(1), replace(session_module._new_record(1), pid=1).to_bytes())
    assert was_lost.wait(5)
    first.close()


def test_a_killed_driver_of_this_machine_is_taken_over_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "TAKEOVER_AFTER_S", 1000.0)
    code = (
        "import os, signal, sys\n"
        "from magicvideo_core.manifest.session import open_session\n"
        "from magicvideo_core.storage import Storage\n"
        "open_session(Storage(sys.argv[1]), print)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    storage = Storage(tmp_path)
    assert [record.ended_at for record in read_sessions(storage)] == [None]
    open_session(storage, must_not_be_lost).close()
    assert [record.number for record in read_sessions(storage)] == [1, 2]


def test_a_number_that_was_taken_meanwhile_is_refused(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    other = replace(session_module._new_record(1), token="other")

    def free_and_then_taken(storage: Storage) -> int:
        storage.write(session_key(1), other.to_bytes())
        return 0

    monkeypatch.setattr(session_module, "wait_until_free", free_and_then_taken)
    with pytest.raises(RunError, match="being worked on"):
        open_session(storage, must_not_be_lost)
    assert read_sessions(storage) == [other]


def test_a_session_whose_object_is_removed_goes_on(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "HEARTBEAT_S", 1000.0)
    session = open_session(storage, must_not_be_lost)
    storage.delete(session_key(1))
    assert session._beat() is None
    assert [record.heartbeat for record in read_sessions(storage)] == [1]
    session.close()


def test_a_torn_session_counts_as_silent(storage: Storage) -> None:
    storage.write(session_key(1), b'{"numb')
    session = open_session(storage, must_not_be_lost)
    assert session.number == 2
    session.close()
    assert json.loads(storage.read(session_key(2)))["ended_at"]


def test_a_session_seen_while_it_is_written_still_says_whose_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = Storage(tmp_path / "run")
    open_silent(storage, here=True)
    record = storage.read(session_key(1))
    # Another driver's heartbeat, of which the second look sees half.
    looks = iter([record, record[: len(record) // 2]])
    monkeypatch.setattr(session_module, "_read_bytes", lambda *_: next(looks, record))
    with pytest.raises(RunError, match=r"being worked on by pid \d+ on "):
        wait_until_free(storage)
