"""Objects on any fsspec URL or local path: atomic writes with their hash, conditional creation, bounded retries."""

import contextlib
import errno
import glob
import hashlib
import os
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from magicvideo_core.concurrent_io import map_concurrently
from magicvideo_core.errors import RunError, StorageUnavailableError
from magicvideo_core.filesystems import (
    creates_atomically,
    filesystem,
    protocol,
    put,
    strip_protocol,
)
from magicvideo_core.listing import glob_remote, has_wildcards, list_remote
from magicvideo_core.local_files import (
    TEMPORARY_PREFIX,
    copy_file,
    create_file,
    delete_file,
    read_file,
    walk_sizes,
    write_file,
    write_files,
)
from magicvideo_core.patience import PATIENCE_S, PERMANENT, is_conflict, with_retries
from magicvideo_core.redact import redact

# How long a command waits for a place that does not answer before it says so.
_PROBE_PATIENCE_S = 10.0

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class StoredObject:
    """Where an object lies and what it holds."""

    uri: str
    sha256: str
    size_bytes: int


class Storage:
    """The objects below one base URI; keys are relative, with `/` between parts.

    Every call raises StorageUnavailableError where the store still fails after `patience_s` of retries, or refuses.
    Pickles as its URI: every process makes its own filesystem object on first use (s3fs is not fork-safe).
    """

    def __init__(self, uri: str | os.PathLike[str], *, patience_s: float = PATIENCE_S) -> None:
        text = os.fspath(uri)
        self.uri = str(Path(local_path(text)).absolute()) if is_local(text) else text.rstrip("/")
        self._local = is_local(text)
        self._patience_s = patience_s

    def __repr__(self) -> str:
        return f"Storage({redact(self.uri)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Storage) and other.uri == self.uri

    def __hash__(self) -> int:
        return hash(self.uri)

    @property
    def local_folder(self) -> Path | None:
        """The folder on this machine's disk, None where the storage is remote."""
        return Path(self.uri) if self._local else None

    @property
    def num_readers(self) -> int:
        """How many calls at once serve it best: a distant store is waited for, a disk is not."""
        return 2 if self._local else 16

    def with_patience(self, patience_s: float) -> "Storage":
        """Return the same storage, given up after other `patience_s` seconds of failures."""
        return Storage(self.uri, patience_s=patience_s)

    def join(self, *parts: str) -> str:
        """Return the absolute URI of a key given in parts."""
        return "/".join([self.uri.rstrip("/"), *(part.strip("/") for part in parts)])

    def write(self, key: str, data: bytes) -> StoredObject:
        """Store an object so that a reader sees all of it or none."""
        uri = self.join(key)
        if self._local:
            self._try(f"write {uri}", lambda: write_file(uri, data))
        else:
            self._try(f"write {uri}", lambda: put(uri, data))
        return _stored(uri, data)

    def write_together(self, objects: Sequence[tuple[str, bytes]]) -> list[StoredObject]:
        """Store several objects (key, data) as `write` does; a disk is waited for once, a distant store for some at once.

        All of each or nothing of it is seen; after an error some may be there.
        """
        if not self._local:
            return list(map_concurrently(lambda each: self.write(*each), objects, self.num_readers))
        files = [(self.join(key), data) for key, data in objects]
        self._try(f"write {len(files)} objects below {self.uri}", lambda: write_files(files))
        return [_stored(uri, data) for uri, data in files]

    def create(self, key: str, data: bytes) -> StoredObject | None:
        """Store an object where none is; None where one with other bytes is there, which stays.

        The same bytes being there counts as created: a reply may be lost after the write. Of several writers at once
        one succeeds, on stores where `creates_atomically`; elsewhere this looks first, then writes, then reads back.
        """
        uri = self.join(key)
        if self._local:
            created = self._try(f"create {uri}", lambda: create_file(Path(uri), data))
        elif self.creates_atomically():
            created = self._try(f"create {uri}", lambda: _create_remote(uri, data))
        else:
            if not self.exists(key):
                self.write(key, data)
            created = False
        return _stored(uri, data) if created or self.read(key) == data else None

    def creates_atomically(self) -> bool:
        """Say whether `create` lets one of several writers at once succeed, whatever their timing."""
        return self._local or creates_atomically(self.uri, self._patience_s)

    def copy_from(self, uri: str, key: str) -> int:
        """Store a copy of the object at any `uri`; returns its size in bytes. Raises FileNotFoundError.

        A hard link or copy on this disk, the server's own copy within one remote store, read and written otherwise.
        """
        target = self.join(key)
        if self._local and is_local(uri):
            self._try(f"copy {uri} to {target}", lambda: copy_file(local_path(uri).absolute(), Path(target)))
        elif not self._local and not is_local(uri) and protocol(uri) == protocol(target):
            self._try(f"copy {uri} to {target}", lambda: filesystem(target).cp_file(uri, target))
        else:
            return self.write(key, read_uri(uri)).size_bytes
        return self.size_bytes(key)

    def read(self, key: str) -> bytes:
        """Return an object's bytes. Raises FileNotFoundError."""
        uri = self.join(key)
        if self._local:
            return self._try(f"read {uri}", lambda: read_file(uri))
        data: bytes = self._try(f"read {uri}", lambda: filesystem(uri).cat_file(uri))
        return data

    def exists(self, key: str) -> bool:
        """Say whether an object is there; never answered from a cached listing."""
        try:
            self.size_bytes(key)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    def size_bytes(self, key: str) -> int:
        """Return an object's size. Raises FileNotFoundError, also where a folder has the name."""
        uri = self.join(key)
        if self._local:
            path = Path(uri)
            status = self._try(f"look for {uri}", path.stat)
            found = {"type": "file" if path.is_file() else "directory", "size": status.st_size}
        else:
            # Not `isfile`: it answers False when the store does not answer.
            found = self._try(f"look for {uri}", lambda: filesystem(uri).info(uri))
        if found["type"] != "file":
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), uri)
        return int(found["size"])

    def list(self, prefix: str = "", *, name_prefix: str = "") -> list[str]:
        """Return the keys of all objects below the folder `prefix`, sorted; unfinished writes are no objects.

        With `name_prefix` those directly in the folder whose names begin so: one page of a listing, however full it is.
        """
        return sorted(self.list_sizes(prefix, name_prefix=name_prefix))

    def list_sizes(self, prefix: str = "", *, name_prefix: str = "") -> dict[str, int]:
        """Return the size in bytes of the objects that `list` names by key, in order of the keys.

        Never answered from a cached listing; unfinished writes are no objects.
        """
        base = self.join(prefix) if prefix else self.uri
        if self._local:
            sizes = self._try(f"list {base}", lambda: dict(walk_sizes(base, name_prefix)))
        else:
            sizes = self._try(f"list {base}", lambda: list_remote(base, name_prefix))
        root = (self.uri if self._local else strip_protocol(self.uri)).rstrip("/")
        keys = {path[len(root) + 1 :]: size for path, size in sizes.items()}
        return {key: keys[key] for key in sorted(keys) if not key.rpartition("/")[2].startswith(TEMPORARY_PREFIX)}

    def delete(self, key: str) -> None:
        """Remove an object; none being there is fine."""
        uri = self.join(key)
        if self._local:
            self._try(f"delete {uri}", lambda: delete_file(uri))
        else:
            # Gone already, or by a first try whose reply was lost.
            with contextlib.suppress(FileNotFoundError):
                self._try(f"delete {uri}", lambda: filesystem(uri).rm_file(uri))

    def _try(self, what: str, call: Callable[[], T]) -> T:
        try:
            return with_retries(what, call, self._patience_s)
        except (FileNotFoundError, NotADirectoryError):
            raise
        # The rest of what does not pass: of the store, and never the fault of what is stored.
        except PERMANENT as error:
            raise StorageUnavailableError(f"Could not {redact(what)}: {_reason(error)}") from error


def is_local(uri: str) -> bool:
    """Say whether a URI names this machine's disk."""
    return "://" not in uri or uri.startswith(("file://", "local://"))


def local_path(uri: str) -> Path:
    """Return the path of a local URI, with or without its `file://`."""
    return Path(uri.partition("://")[2] if "://" in uri else uri).expanduser()


def read_uri(uri: str) -> bytes:
    """Return the bytes at a path or URL.

    Raises FileNotFoundError or PermissionError at once, and StorageUnavailableError after the retries.
    """
    if is_local(uri):
        path = str(local_path(uri))
        return with_retries(f"read {uri}", lambda: read_file(path))
    data: bytes = with_retries(f"read {uri}", lambda: filesystem(uri).cat_file(uri))
    return data


def expand_uri(pattern: str) -> list[str]:
    """Return the sorted URIs that a path, URL or glob names; one without wildcards is returned as it is.

    Raises StorageUnavailableError where a distant store cannot list a folder after the retries.
    """
    if not has_wildcards(pattern):
        return [pattern]
    if is_local(pattern):
        path = str(local_path(pattern))
        # A file whose name holds a bracket is named, not globbed.
        return [path] if os.path.exists(path) else sorted(glob.glob(path, recursive=True))
    if pattern.startswith(("http://", "https://")):
        return [pattern]
    return glob_remote(pattern)


def check_writable(uri: str, option: str = "--output") -> None:
    """Raise RunError in one sentence, naming the option, unless objects can be stored below `uri`; leaves nothing behind."""
    probe = f"{TEMPORARY_PREFIX}probe-{secrets.token_hex(8)}"
    if not is_local(uri) and (urlsplit(uri).query or "@" in urlsplit(uri).netloc):
        # It would be written into every row.
        raise RunError(
            f"Output {redact(uri)} has a user, password or query: give credentials by the environment or fsspec's "
            "configuration."
        )
    try:
        if is_local(uri):
            folder = local_path(uri).absolute()
            while not folder.exists():
                folder = folder.parent
            # Permission bits say nothing for root or on read-only mounts: only a write tells.
            (folder / probe).touch(exist_ok=False)
            (folder / probe).unlink()
        else:
            storage = Storage(uri, patience_s=_PROBE_PATIENCE_S)
            storage.write(probe, b"")
            storage.delete(probe)
    except (OSError, ValueError, ImportError, StorageUnavailableError) as error:
        raise RunError(
            f"Output {uri} cannot be written: {_reason(error)}; choose another place with {option}."
        ) from None


def _reason(error: Exception) -> str:
    text = (error.strerror if isinstance(error, OSError) else None) or str(error).rstrip(".") or repr(error)
    return redact(text)


def _stored(uri: str, data: bytes) -> StoredObject:
    return StoredObject(uri, hashlib.sha256(data).hexdigest(), len(data))


def _create_remote(uri: str, data: bytes) -> bool:
    try:
        put(uri, data, mode="create")
    except OSError as error:
        if not is_conflict(error):
            raise
        return False
    return True
