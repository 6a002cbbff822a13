"""Storage over S3 through the fault proxy: what is written is there and whole, whatever happens on the way."""

import json
import socket
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from faults.proxy import CONTROL_PATH, FAULTS, FaultRates
from faults.rclone import BUCKET, s3_options
from fsspec.config import conf

from magicvideo_core import filesystems
from magicvideo_core.errors import RunError, StorageUnavailableError
from magicvideo_core.storage import Storage, check_writable, expand_uri


@pytest.fixture
def storage(s3: Any, tmp_path: Path) -> Storage:
    return Storage(s3.uri(f"{tmp_path.name}/run"))


@pytest.mark.parametrize("kind", [kind for kind in FAULTS if kind != "slow"])
def test_a_store_that_always_fails_is_unavailable_and_never_answers_wrong(s3: Any, storage: Storage, kind: str) -> None:
    storage.write("key", b"before")
    hasty = storage.with_patience(0.3)
    s3.proxy.rates = FaultRates(**{kind: 1.0})
    with pytest.raises(StorageUnavailableError, match=r"in \d+ tries over 0\.3 s"):
        hasty.read("key")
    if kind != "truncated":
        # The head of an answer may be all of it, so only a body can be cut short.
        for ask in (hasty.exists, hasty.list, lambda key: hasty.write(key, b"after")):
            with pytest.raises(StorageUnavailableError):
                ask("key")


def test_an_output_that_does_not_answer_is_said_in_one_sentence(
    s3: Any, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("magicvideo_core.storage._PROBE_PATIENCE_S", 0.5)
    check_writable(storage.uri)
    s3.server.kill()
    with pytest.raises(RunError, match=f"Output {storage.uri} cannot be written: "):
        check_writable(storage.uri)
    s3.server.start()
    with pytest.raises(RunError, match=r"Output s3://no-such-bucket cannot be written: .*bucket"):
        check_writable("s3://no-such-bucket")


@pytest.fixture
def silent_uri(s3: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A folder on a server that takes every connection and says nothing; seconds of waiting become tenths."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        options = s3_options(server.getsockname()[1])
        options["config_kwargs"] |= {"connect_timeout": 0.5, "read_timeout": 0.3}
        monkeypatch.setitem(conf, "s3", options)
        monkeypatch.setattr(filesystems, "_PUT_TIMEOUT_S", 0.5)
        filesystems.forget_filesystems()
        yield f"s3://{BUCKET}/run"
    filesystems.forget_filesystems()


def test_a_server_that_never_answers_is_unavailable_and_no_hang(
    silent_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    silent = Storage(silent_uri, patience_s=1.0)
    calls: dict[str, Callable[[], object]] = {
        "read": lambda: silent.read("key"),
        "write": lambda: silent.write("key", b"data"),
        "create": lambda: silent.create("key", b"data"),
        "look for": lambda: silent.exists("key"),
        "list": silent.list,
        "delete": lambda: silent.delete("key"),
    }
    for what, call in calls.items():
        started_s = time.monotonic()
        with pytest.raises(StorageUnavailableError, match=f"Could not {what} s3://.* in \\d+ tries over 1 s: .*imeout"):
            call()
        # The patience, and the try in which it ended: two requests, and botocore's pause of up to a second between them.
        assert time.monotonic() - started_s < 10
    monkeypatch.setattr("magicvideo_core.storage._PROBE_PATIENCE_S", 0.5)
    with pytest.raises(RunError, match=f"Output {silent_uri} cannot be written: "):
        check_writable(silent_uri)


def test_a_third_of_all_requests_failing_loses_nothing(s3: Any, storage: Storage) -> None:
    before = s3.proxy.num_injected()
    s3.proxy.rates = FaultRates.evenly(0.33, slow_s=0.1)

    def write_and_read(number: int) -> bool:
        data = b"%d" % number * 1000
        return storage.write(f"a/{number}", data).size_bytes == len(storage.read(f"a/{number}")) == len(data)

    with ThreadPoolExecutor(8) as executor:
        assert all(executor.map(write_and_read, range(24)))
    assert storage.list_sizes("a") == {f"a/{n}": len(b"%d" % n) * 1000 for n in sorted(range(24), key=str)}
    assert s3.proxy.num_injected() - before > 10


@pytest.mark.parametrize("pattern", ["*/run.json", "?/*.json", "**/run.json"])
def test_half_of_all_requests_failing_hides_nothing_from_a_glob(s3: Any, storage: Storage, pattern: str) -> None:
    for number in range(4):
        storage.write(f"{number}/run.json", b"{}")
    s3.proxy.rates = FaultRates(slow_down=0.5)
    for _ in range(4):
        assert expand_uri(storage.join(pattern)) == [storage.join(f"{number}/run.json") for number in range(4)]


def test_creation_with_lost_replies_knows_its_own_object(s3: Any, storage: Storage) -> None:
    s3.proxy.rates = FaultRates(lost_reply=0.5)
    for number in range(2):
        assert storage.create(f"{number}", b"mine") is not None
        assert storage.create(f"{number}", b"theirs") is None
        assert storage.read(f"{number}") == b"mine"


def test_a_server_that_is_killed_and_comes_back_is_waited_for(s3: Any, storage: Storage) -> None:
    storage.write("before", b"1")
    s3.server.kill()
    comes_back = threading.Timer(1.0, s3.server.start)
    comes_back.start()
    started_s = time.monotonic()
    assert storage.read("before") == b"1"
    assert time.monotonic() - started_s > 0.5
    comes_back.join()


def test_a_folder_without_objects_is_none(s3: Any, storage: Storage, tmp_path: Path) -> None:
    folder = s3.server.folder / BUCKET / tmp_path.name / "run"
    folder.mkdir(parents=True)
    # What a killed server had not finished.
    (folder / ".rclone_temp_put_0").touch()
    assert storage.list_sizes() == {}


def test_conditional_creation_is_probed_and_leaves_nothing(s3: Any, storage: Storage) -> None:
    filesystems.forget_filesystems()
    # rclone takes the second creation too: a promise that it does not keep.
    assert not storage.creates_atomically()
    assert filesystems.filesystem(storage.uri).find(storage.uri) == []


def test_the_proxy_says_and_changes_what_it_does_over_http(s3: Any) -> None:
    url = f"http://127.0.0.1:{s3.proxy.port}{CONTROL_PATH}"
    with urllib.request.urlopen(urllib.request.Request(url, b'{"slow": 0.5, "slow_s": 0.0}', method="POST")) as answer:
        assert json.load(answer)["rates"]["slow"] == 0.5
    with urllib.request.urlopen(url) as answer:
        assert json.load(answer)["counts"] == s3.proxy.counts()


def test_the_same_seed_gives_the_same_faults() -> None:
    rates = FaultRates.evenly(0.6)
    assert [rates.draw(number / 10) for number in range(10)] == [*FAULTS, None, None, None, None]
