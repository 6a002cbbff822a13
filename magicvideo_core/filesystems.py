"""The fsspec side of storage: one filesystem object per process and protocol, and what its store can promise."""

import contextlib
import os
import secrets
from functools import lru_cache
from typing import Any

from magicvideo_core.local_files import TEMPORARY_PREFIX
from magicvideo_core.patience import is_conflict, with_retries

_S3 = ("s3", "s3a")
# Stores whose fsspec implementation sends the condition with the write; others look first and then write.
_CONDITIONAL_PROTOCOLS = (*_S3, "gs", "gcs")
# One request may hang this long; `with_retries` bounds all of them together.
_S3_CLIENT = {
    "connect_timeout": 5,
    "read_timeout": 30,
    # A second try for each page of a long listing; more would multiply with our own.
    "retries": {"total_max_attempts": 2, "mode": "standard"},
}
# Writing has no time limit of its own in aiohttp: a server that takes a connection and never reads would hang it.
_PUT_TIMEOUT_S = 30.0
# A browser shows a page only under its type; unlike files, objects are stored without one by `pipe_file`.
_CONTENT_TYPES = {
    "html": "text/html; charset=utf-8",
    "json": "application/json",
    "md": "text/markdown; charset=utf-8",
    "mp4": "video/mp4",
    "png": "image/png",
    "svg": "image/svg+xml",
    "webp": "image/webp",
}
_CONTENT_TYPE_OPTION = {"s3": "ContentType", "s3a": "ContentType", "gs": "content_type", "gcs": "content_type"}
_SLOWEST_UPLOAD_BYTES_PER_S = 256 * 2**10


def filesystem(uri: str) -> Any:
    """Return the filesystem object of a URI's protocol; every process has its own (s3fs is not fork-safe)."""
    return _filesystem_of_protocol(protocol(uri), os.getpid())


def protocol(uri: str) -> str:
    """Return the part of a URI before `://`."""
    return uri.partition("://")[0]


def lists_by_prefix(uri: str) -> bool:
    """Say whether `find` of this store takes a `prefix` of names, so that a full folder need not be listed whole."""
    return protocol(uri) in _S3


def strip_protocol(uri: str) -> str:
    """Return a URI as its filesystem spells it in listings."""
    return str(filesystem(uri)._strip_protocol(uri))


def put(uri: str, data: bytes, **options: Any) -> None:
    """Store an object by the filesystem's `pipe_file`, media and pages under their types.

    Raises TimeoutError where the server does not take it in time.
    """
    store = filesystem(uri)
    name, content_type = _CONTENT_TYPE_OPTION.get(protocol(uri)), _CONTENT_TYPES.get(uri.rpartition(".")[2])
    if name is not None and content_type is not None:
        options = {name: content_type, **options}
    if not store.async_impl:
        store.pipe_file(uri, data, **options)
        return
    from fsspec.asyn import sync

    limit_s = _PUT_TIMEOUT_S + len(data) / _SLOWEST_UPLOAD_BYTES_PER_S
    try:
        # Cancels the request, which closes its connection.
        sync(store.loop, store._pipe_file, uri, data, timeout=limit_s, **options)
    except TimeoutError as error:
        raise TimeoutError(f"no answer within {limit_s:.3g} s") from error


def creates_atomically(uri: str, patience_s: float) -> bool:
    """Say whether the store below `uri` refuses to create what exists; tried out once per process and bucket."""
    if protocol(uri) not in _CONDITIONAL_PROTOCOLS:
        return False
    bucket = "/".join(uri.split("/")[:3])
    return _probe_creation(bucket, uri, os.getpid(), patience_s)


def forget_filesystems() -> None:
    """Make new filesystem objects from now on, as after a change of fsspec's configuration."""
    _filesystem_of_protocol.cache_clear()
    _probe_creation.cache_clear()


@lru_cache(maxsize=64)
def _filesystem_of_protocol(protocol: str, process_id: int) -> Any:
    import fsspec
    from fsspec.config import conf

    options: dict[str, Any] = {}
    if protocol in _S3:
        configured: dict[str, Any] = {}
        for name in _S3:
            configured |= conf.get(name, {})
        # A cached listing would answer "not done" or "done" from the past. `retries` is s3fs' own loop around the
        # client's. A person's settings for the client stay.
        options = {"use_listings_cache": False, "config_kwargs": {**_S3_CLIENT, **configured.get("config_kwargs", {})}}
    found = fsspec.filesystem(protocol, **options)
    if protocol in _S3:
        found.retries = 1
    return found


@lru_cache(maxsize=64)
def _probe_creation(bucket: str, uri: str, process_id: int, patience_s: float) -> bool:
    """Create the same object twice: a store that takes the second one ignores the condition."""
    probe = f"{uri.rstrip('/')}/{TEMPORARY_PREFIX}probe-{secrets.token_hex(8)}"
    store = filesystem(uri)

    def create() -> bool:
        try:
            put(probe, b"probe", mode="create")
        except (OSError, NotImplementedError, TypeError) as error:
            if isinstance(error, OSError) and not is_conflict(error):
                raise
            return False
        return True

    try:
        with_retries(f"create {probe}", create, patience_s)
        return not with_retries(f"create {probe}", create, patience_s)
    finally:
        with contextlib.suppress(Exception):
            store.rm_file(probe)
