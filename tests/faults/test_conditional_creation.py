"""Conditional creation on an S3 server that honours it: one creator, one driver, whatever their timing."""

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from faults.moto_s3 import BUCKET, MotoServer
from faults.rclone import s3_environment, s3_options
from fsspec.config import conf

from magicvideo_core import filesystems
from magicvideo_core.errors import RunError
from magicvideo_core.manifest import session as session_module
from magicvideo_core.manifest.layout import session_key
from magicvideo_core.manifest.session import open_session, read_sessions
from magicvideo_core.storage import Storage


@pytest.fixture(scope="module")
def server() -> Iterator[MotoServer]:
    with MotoServer() as server:
        yield server


@pytest.fixture
def storage(server: MotoServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Storage]:
    for name, value in s3_environment(server.port).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setitem(conf, "s3", s3_options(server.port))
    filesystems.forget_filesystems()
    yield Storage(f"s3://{BUCKET}/{tmp_path.name}/run")
    filesystems.forget_filesystems()


def test_the_probe_says_yes_and_leaves_nothing(storage: Storage) -> None:
    assert storage.creates_atomically()
    assert filesystems.filesystem(storage.uri).find(storage.uri) == []


def test_pages_and_media_have_their_types(storage: Storage) -> None:
    storage.write("report/index.html", b"<!doctype html>")
    storage.create("artifacts/vfi/a.mp4", b"frames")
    store = filesystems.filesystem(storage.uri)
    found = [store.info(storage.join(key))["ContentType"] for key in ("report/index.html", "artifacts/vfi/a.mp4")]
    assert found == ["text/html; charset=utf-8", "video/mp4"], "a browser shows the page and does not store it"


def test_of_many_creators_one_succeeds(storage: Storage) -> None:
    storage.creates_atomically()
    with ThreadPoolExecutor(8) as executor:
        created = list(executor.map(lambda number: storage.create("key", b"%d" % number), range(16)))
    winner = storage.read("key")
    assert [stored is not None for stored in created] == [b"%d" % number == winner for number in range(16)]
    assert storage.create("key", winner) is not None, "the same bytes again: the reply may have been lost"


def test_of_two_drivers_on_one_session_number_one_refuses_at_once(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.creates_atomically()
    both_saw_it_free = threading.Barrier(2)
    opened, refused = [], []

    def wait_for_the_other(storage: Storage) -> int:
        both_saw_it_free.wait()
        return 0

    def drive(number: int) -> None:
        try:
            opened.append(open_session(storage, on_lost=print))
        except RunError as error:
            refused.append(str(error))

    monkeypatch.setattr(session_module, "wait_until_free", wait_for_the_other)
    # Where creation is conditional nothing has to settle.
    monkeypatch.setattr(session_module, "_SETTLE_S", 1000.0)
    with ThreadPoolExecutor(2) as executor:
        list(executor.map(drive, range(2)))
    [session] = opened
    [refusal] = refused
    assert f"is being worked on by pid {os.getpid()} on " in refusal
    assert storage.list() == [session_key(1)]
    session.close()
    assert [record.ended_at is not None for record in read_sessions(storage)] == [True]
