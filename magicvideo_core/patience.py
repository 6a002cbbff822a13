"""How long storage is tried: which of its errors may pass, and retries with backoff inside one time limit."""

import errno
import http.client
import logging
import random
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any, TypeVar

from magicvideo_core.errors import StorageUnavailableError
from magicvideo_core.redact import redact

logger = logging.getLogger(__name__)

# A server that restarts is back within it; whoever can wait longer (a pool) waits around it.
PATIENCE_S = 60.0
_FIRST_BACKOFF_S = 0.2
_LAST_BACKOFF_S = 8.0

# OSErrors that another try does not mend.
PERMANENT = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, FileExistsError)
# The file system says what it cannot do, or that the name is none.
_PERMANENT_ERRNOS = {errno.EROFS, errno.ENAMETOOLONG, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ELOOP}
# HTTP answers of the 4xx kind that speak of this moment and not of the request: timeout, conflict, throttling.
_PASSING_STATUS = {408, 409, 425, 429}
# S3's codes for a request that was damaged on its way or sent against a wrong clock tick; all of them answer 400.
_PASSING_CODES = {"BadDigest", "IncompleteBody", "RequestTimeout", "XAmzContentSHA256Mismatch"}

T = TypeVar("T")


def with_retries(what: str, call: Callable[[], T], patience_s: float = PATIENCE_S) -> T:
    """Return what `call` returns, trying again while its errors may pass and `patience_s` has not run out.

    `what` completes "Could not ..." in messages. Raises the errors of `PERMANENT` at once, StorageUnavailableError
    for everything else that storage raises.
    """
    started_s, tries = time.monotonic(), 0
    while True:
        tries += 1
        try:
            return call()
        except PERMANENT:
            raise
        except _storage_errors() as error:
            described = f"{type(error).__name__}: {redact(str(error))}"
            # Full jitter: drivers and actors that failed together do not come back together.
            limit_s = min(_FIRST_BACKOFF_S * 2 ** (tries - 1), _LAST_BACKOFF_S)
            delay_s = random.uniform(limit_s / 2, limit_s)
            if not _may_pass(error):
                raise _refusal(error)(f"Could not {redact(what)}: {described}") from error
            if time.monotonic() - started_s + delay_s > patience_s:
                raise StorageUnavailableError(
                    f"Could not {redact(what)} in {tries} tries over {patience_s:g} s: {described}"
                ) from error
            # The first failures are everyday life of an object store.
            level = logging.WARNING if tries > 3 else logging.INFO
            logger.log(level, "try %d to %s failed (%s)", tries, redact(what), described)
            time.sleep(delay_s)


def is_conflict(error: Exception) -> bool:
    """Say whether an error means that a conditional creation found an object there."""
    # S3 servers differ in whether they name the condition that failed, and only then does s3fs say FileExistsError.
    return isinstance(error, FileExistsError) or _answer(error)[0] == 412


def _may_pass(error: Exception) -> bool:
    if isinstance(error, _hopeless_errors()):
        return False
    status, code = _answer(error)
    if status is not None and 400 <= status < 500:
        return status in _PASSING_STATUS or code in _PASSING_CODES
    return not (isinstance(error, OSError) and error.errno in _PERMANENT_ERRNOS)


def _refusal(error: Exception) -> type[Exception]:
    """Return what to raise for an error that does not pass."""
    status = _answer(error)[0]
    if status in (401, 403):
        return PermissionError
    return FileNotFoundError if status in (404, 410) else StorageUnavailableError


def _answer(error: BaseException) -> tuple[int | None, str | None]:
    """Return HTTP status and S3 code of the answer behind an error; s3fs keeps botocore's error as the cause."""
    response: Any = getattr(error, "response", None) or getattr(error.__cause__, "response", None)
    if not isinstance(response, dict):
        return getattr(error, "status", None), None
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    return status, response.get("Error", {}).get("Code")


@lru_cache(maxsize=1)
def _storage_errors() -> tuple[type[Exception], ...]:
    """Return what storage may raise; the errors of HTTP clients are no OSErrors."""
    found: list[type[Exception]] = [OSError, TimeoutError, http.client.HTTPException]
    try:
        from botocore.exceptions import BotoCoreError, ClientError
        from botocore.parsers import ResponseParserError

        found += [BotoCoreError, ClientError, ResponseParserError]
    except ImportError:
        pass
    try:
        from aiohttp import ClientError as HttpClientError

        found.append(HttpClientError)
    except ImportError:
        pass
    return tuple(found)


@lru_cache(maxsize=1)
def _hopeless_errors() -> tuple[type[Exception], ...]:
    """Return botocore's errors about this machine's configuration, raised before anything is sent."""
    try:
        from botocore import exceptions
    except ImportError:
        return ()
    return (
        exceptions.NoCredentialsError,
        exceptions.PartialCredentialsError,
        exceptions.ProfileNotFound,
        exceptions.NoRegionError,
        exceptions.InvalidEndpointConfigurationError,
        exceptions.ParamValidationError,
        exceptions.UnknownSignatureVersionError,
    )
