"""Objects on any fsspec URL or local path: atomic writes with their hash, and bounded retries of what may pass."""

import glob
import hashlib
import logging
import os
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from magicvideo_core.errors import RunError, StorageUnavailableError

logger = logging.getLogger(__name__)

MAX_TRIES = 4
_FIRST_BACKOFF_S = 0.2
_TEMPORARY_PREFIX = ".part-"
# OSErrors that another try does not mend.
_PERMANENT = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, FileExistsError)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class StoredObject:
    """Where an object lies and what it holds."""

    uri: str
    sha256: str
    size_bytes: int


class Storage:
    """The objects below one base URI; keys are relative, with `/` between parts.

    Pickles as its URI alone: every process makes its own filesystem object on first use (s3fs is not fork-safe).
    """

    def __init__(self, uri: str | os.PathLike[str]) -> None:
        text = os.fspath(uri)
        self.uri = str(Path(local_path(text)).absolute()) if is_local(text) else text.rstrip("/")
        self._local = is_local(text)

    def __repr__(self) -> str:
        return f"Storage({self.uri!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Storage) and other.uri == self.uri

    def __hash__(self) -> int:
        return hash(self.uri)

    def join(self, *parts: str) -> str:
        """Return the absolute URI of a key given in parts."""
        return "/".join([self.uri.rstrip("/"), *(part.strip("/") for part in parts)])

    def write(self, key: str, data: bytes) -> StoredObject:
        """Store an object so that a reader sees all of it or none. Raises StorageUnavailableError after the retries."""
        uri = self.join(key)
        if self._local:
            _with_retries(f"write {uri}", lambda: _write_local(Path(uri), data))
        else:
            _with_retries(f"write {uri}", lambda: _filesystem(uri).pipe_file(uri, data))
        return StoredObject(uri, hashlib.sha256(data).hexdigest(), len(data))

    def read(self, key: str) -> bytes:
        """Return an object's bytes. Raises FileNotFoundError, or StorageUnavailableError after the retries."""
        return read_uri(self.join(key))

    def exists(self, key: str) -> bool:
        """Say whether an object is there; never answered from a cached listing."""
        uri = self.join(key)
        if self._local:
            return Path(uri).is_file()
        return bool(_with_retries(f"look for {uri}", lambda: _filesystem(uri).isfile(uri)))

    def list(self, prefix: str = "") -> list[str]:
        """Return the keys of all objects below the folder `prefix`, sorted; unfinished writes are no objects."""
        base = self.join(prefix) if prefix else self.uri
        if self._local:
            paths = [Path(folder, name).as_posix() for folder, _, names in os.walk(base) for name in names]
        else:
            paths = _with_retries(f"list {base}", lambda: _list_remote(base))
        root = self.uri if self._local else _strip_protocol(self.uri)
        keys = (path[len(root.rstrip("/")) + 1 :] for path in paths)
        return sorted(key for key in keys if not key.rpartition("/")[2].startswith(_TEMPORARY_PREFIX))

    def delete(self, key: str) -> None:
        """Remove an object; none being there is fine."""
        uri = self.join(key)
        if self._local:
            Path(uri).unlink(missing_ok=True)
        elif self.exists(key):
            _with_retries(f"delete {uri}", lambda: _filesystem(uri).rm_file(uri))


def is_local(uri: str) -> bool:
    """Say whether a URI names this machine's disk."""
    return "://" not in uri or uri.startswith(("file://", "local://"))


def local_path(uri: str) -> Path:
    """Return the path of a local URI, with or without its `file://`."""
    return Path(uri.partition("://")[2] if "://" in uri else uri).expanduser()


def read_uri(uri: str) -> bytes:
    """Return the bytes at a path or URL. Raises FileNotFoundError, or StorageUnavailableError after the retries."""
    if is_local(uri):
        return _with_retries(f"read {uri}", local_path(uri).read_bytes)
    data: bytes = _with_retries(f"read {uri}", lambda: _filesystem(uri).cat_file(uri))
    return data


def expand_uri(pattern: str) -> list[str]:
    """Return the sorted URIs that a path, URL or glob names; one without wildcards is returned as it is."""
    if not any(character in pattern for character in "*?["):
        return [pattern]
    if is_local(pattern):
        path = str(local_path(pattern))
        # A file whose name holds a bracket is named, not globbed.
        return [path] if os.path.exists(path) else sorted(glob.glob(path, recursive=True))
    if pattern.startswith(("http://", "https://")):
        return [pattern]
    filesystem = _filesystem(pattern)
    found = _with_retries(f"list {pattern}", lambda: filesystem.glob(pattern))
    return sorted(str(filesystem.unstrip_protocol(path)) for path in found)


def check_writable(uri: str) -> None:
    """Raise RunError in one sentence unless objects can be stored below `uri`; leaves nothing behind."""
    probe = f"{_TEMPORARY_PREFIX}probe-{secrets.token_hex(8)}"
    try:
        if is_local(uri):
            folder = local_path(uri).absolute()
            while not folder.exists():
                folder = folder.parent
            # Permission bits say nothing for root or on read-only mounts: only a write tells.
            (folder / probe).touch(exist_ok=False)
            (folder / probe).unlink()
        else:
            storage = Storage(uri)
            storage.write(probe, b"")
            storage.delete(probe)
    except (OSError, ValueError, ImportError, StorageUnavailableError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error).rstrip(".") or repr(error)
        raise RunError(f"Output {uri} cannot be written: {reason}; choose another place with --output.") from None


def _write_local(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{_TEMPORARY_PREFIX}{secrets.token_hex(8)}")
    try:
        with part.open("xb") as file:
            file.write(data)
            file.flush()
            # A rename may reach the disk before the data it names.
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _list_remote(base: str) -> list[str]:
    try:
        return [str(path) for path in _filesystem(base).find(base)]
    except FileNotFoundError:
        return []


def _with_retries(what: str, call: Callable[[], T]) -> T:
    for attempt in range(1, MAX_TRIES + 1):
        try:
            return call()
        except _PERMANENT:
            raise
        except _transient_errors() as error:
            if attempt == MAX_TRIES:
                raise StorageUnavailableError(
                    f"Could not {what} in {MAX_TRIES} tries: {type(error).__name__}: {error}"
                ) from error
            logger.warning("try %d to %s failed (%s: %s)", attempt, what, type(error).__name__, error)
            time.sleep(_FIRST_BACKOFF_S * 2 ** (attempt - 1))
    raise AssertionError("unreachable")


@lru_cache(maxsize=1)
def _transient_errors() -> tuple[type[Exception], ...]:
    """Return what may pass; botocore's own errors are no OSErrors."""
    try:
        from botocore.exceptions import BotoCoreError
    except ImportError:
        return (OSError, TimeoutError)
    return (OSError, TimeoutError, BotoCoreError)


@lru_cache(maxsize=64)
def _filesystem_of_protocol(protocol: str, process_id: int) -> Any:
    import fsspec

    # A cached listing would answer "not done" or "done" from the past.
    options = {"use_listings_cache": False} if protocol in ("s3", "s3a") else {}
    return fsspec.filesystem(protocol, **options)


def _filesystem(uri: str) -> Any:
    return _filesystem_of_protocol(uri.partition("://")[0], os.getpid())


def _strip_protocol(uri: str) -> str:
    return str(_filesystem(uri)._strip_protocol(uri))
