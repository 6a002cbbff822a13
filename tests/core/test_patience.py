"""Retries: what may pass is tried within a time limit, what cannot is said at once, and nothing shows credentials."""

import errno
import http.client
from collections.abc import Callable

import aiohttp
import pytest
from botocore.exceptions import ClientError, ConnectionClosedError, EndpointConnectionError, NoCredentialsError

from magicvideo_core import patience
from magicvideo_core.errors import StorageUnavailableError
from magicvideo_core.patience import is_conflict, with_retries


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that retries would have slept, on a clock that only they move."""
    slept: list[float] = []
    monkeypatch.setattr(patience.time, "sleep", slept.append)
    monkeypatch.setattr(patience.time, "monotonic", lambda: sum(slept))
    return slept


def failing(times: int, error: BaseException) -> tuple[Callable[[], str], list[int]]:
    calls: list[int] = []

    def call() -> str:
        calls.append(1)
        if len(calls) <= times:
            raise error
        return "done"

    return call, calls


def answered(status: int, code: str) -> OSError:
    """Return an error as s3fs raises it for an answer of the server."""
    response = {"Error": {"Code": code, "Message": "m"}, "ResponseMetadata": {"HTTPStatusCode": status}}
    error = OSError(errno.EIO, "m")
    error.__cause__ = ClientError(response, "PutObject")  # type: ignore[arg-type]
    return error


@pytest.mark.parametrize(
    "error",
    [
        ConnectionResetError("reset"),
        ConnectionRefusedError("refused"),
        TimeoutError("slow"),
        http.client.IncompleteRead(b"half"),
        aiohttp.ClientPayloadError("half"),
        aiohttp.ServerDisconnectedError(),
        EndpointConnectionError(endpoint_url="http://s3"),
        ConnectionClosedError(endpoint_url="http://s3"),
        answered(503, "SlowDown"),
        answered(500, "InternalError"),
        answered(429, "TooManyRequests"),
        answered(409, "ConditionalRequestConflict"),
        answered(400, "IncompleteBody"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_may_pass_is_tried_again(waits: list[float], error: Exception) -> None:
    call, calls = failing(5, error)
    assert with_retries("read", call) == "done"
    assert (len(calls), len(waits)) == (6, 5)


def test_retries_end_with_their_time(waits: list[float]) -> None:
    call, calls = failing(1000, TimeoutError("slow"))
    with pytest.raises(StorageUnavailableError, match=r"Could not read x in \d+ tries over 60 s: TimeoutError: slow"):
        with_retries("read x", call)
    assert 50 < sum(waits) <= 60
    assert max(waits) <= 8
    assert 8 <= len(calls) < 30
    waits.clear()
    with pytest.raises(StorageUnavailableError, match="over 2 s"):
        with_retries("read x", call, patience_s=2)
    assert sum(waits) <= 2


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (FileNotFoundError("f"), FileNotFoundError),
        (PermissionError("f"), PermissionError),
        (NoCredentialsError(), StorageUnavailableError),
        (answered(400, "InvalidArgument"), StorageUnavailableError),
        (answered(403, "SomethingDenied"), PermissionError),
        (answered(404, "NoSuchWhatever"), FileNotFoundError),
        (OSError(errno.EROFS, "read-only"), StorageUnavailableError),
    ],
    ids=str,
)
def test_what_cannot_pass_is_said_at_once(waits: list[float], error: Exception, raised: type[Exception]) -> None:
    call, calls = failing(1, error)
    with pytest.raises(raised):
        with_retries("read", call)
    assert (len(calls), waits) == (1, [])


def test_what_is_no_error_of_storage_goes_through() -> None:
    call, calls = failing(1, KeyError("bug"))
    with pytest.raises(KeyError):
        with_retries("read", call)
    assert len(calls) == 1


def test_a_failed_condition_is_known_however_the_server_words_it() -> None:
    assert is_conflict(FileExistsError("there"))
    assert is_conflict(answered(412, "PreconditionFailed"))
    assert not is_conflict(answered(503, "SlowDown"))
    assert not is_conflict(OSError(errno.EINVAL, "other"))


def test_messages_show_no_credentials(waits: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cr3t-s3cr3t")
    call, _ = failing(100, TimeoutError("signing with s3cr3t-s3cr3t failed"))
    with pytest.raises(StorageUnavailableError) as caught:
        with_retries("read https://someone:pass@host/a", call)
    assert "s3cr3t" not in str(caught.value) and "pass@" not in str(caught.value)
