"""Files as objects: whole or absent, whatever interrupts the writing of them."""

import contextlib
import errno
import os
import secrets
import shutil
import time
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path

from magicvideo_core.disk_sync import sync_together

# Names of files that are no objects: unfinished writes, and probes.
TEMPORARY_PREFIX = ".part-"
# The file system has no hard links, not here, or no more of them.
_NO_LINK = {errno.EXDEV, errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK}
# What tells the parts of this process from those of all others that write to the disk; a fork has another id.
_PROCESS, _numbers = secrets.token_hex(8), count()


def read_file(path: str) -> bytes:
    """Return the bytes of a file. Raises FileNotFoundError."""
    with open(path, "rb", buffering=0) as file:
        return file.read()


def write_file(path: str | Path, data: bytes) -> None:
    """Put the bytes in place at once; folders are made, a file of the name is replaced."""
    part = _write_part(path, data)
    try:
        os.replace(part, path)
    except BaseException:
        delete_file(part)
        raise


def write_files(files: Sequence[tuple[str, bytes]]) -> None:
    """Put the bytes of several files in place, in their order, as `write_file` does; the disk is waited for once.

    None is in place before the bytes of all are on the disk. After an error some may be.
    """
    descriptors: dict[str, int] = {}
    try:
        for path, data in files:
            part, descriptor = _open_part(path)
            descriptors[part] = descriptor
            _write(descriptor, data)
        sync_together(list(descriptors.values()))
        for part, (path, _) in zip(descriptors, files, strict=True):
            os.replace(part, path)
    except BaseException:
        for part in descriptors:
            delete_file(part)
        raise
    finally:
        for descriptor in descriptors.values():
            os.close(descriptor)


def create_file(path: Path, data: bytes) -> bool:
    """Put the bytes in place at once where nothing is; False where something is. One of several writers succeeds."""
    part = _write_part(path, data)
    try:
        os.link(part, path)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINK:
            raise
        # Without hard links two writers at the same instant may both succeed.
        if path.exists():
            return False
        os.replace(part, path)
    finally:
        delete_file(part)
    return True


def delete_file(path: str) -> None:
    """Remove a file; none being there is fine."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def copy_file(source: Path, target: Path) -> None:
    """Put a hard link or a copy in place at once. Raises FileNotFoundError."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(_part_name())
    try:
        try:
            # Objects are replaced and never changed in place, so two names for one file are two objects.
            os.link(source, part)
        except OSError as error:
            if error.errno not in _NO_LINK:
                raise
            shutil.copyfile(source, part)
            with part.open("rb+") as file:
                os.fsync(file.fileno())
        os.replace(part, target)
    finally:
        # Renaming one name of a file to another of its names does nothing, and leaves both.
        part.unlink(missing_ok=True)


def walk_sizes(folder: str, name_prefix: str = "") -> Iterator[tuple[str, int]]:
    """Give path and size in bytes of every file below a folder; none where the folder is not there.

    With `name_prefix` only files directly in the folder whose names begin so.
    """
    try:
        entries = os.scandir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return
    with entries:
        for entry in entries:
            if not entry.name.startswith(name_prefix):
                continue
            try:
                if not entry.is_dir():
                    yield entry.path, entry.stat().st_size
                elif not name_prefix and not entry.is_symlink():
                    yield from walk_sizes(entry.path)
            except FileNotFoundError:
                # Gone since the folder was read, as the part of a write is once it is done.
                continue


def unfinished_files(folder: str, older_than_s: float) -> Iterator[tuple[str, int]]:
    """Give key and size in bytes of the parts of writes below a folder that nobody has touched for a while."""
    for parent, _, names in os.walk(folder):
        for name in names:
            if not name.startswith(TEMPORARY_PREFIX):
                continue
            path = os.path.join(parent, name)
            # Gone since the folder was read, as a part is once its write is done.
            with contextlib.suppress(FileNotFoundError):
                status = os.stat(path)
                if time.time() - status.st_mtime > older_than_s:
                    yield os.path.relpath(path, folder), status.st_size


def _write_part(path: str | Path, data: bytes) -> str:
    """Write the bytes beside where they belong, under a name that no listing shows."""
    part, descriptor = _open_part(path)
    try:
        try:
            _write(descriptor, data)
            # A rename may reach the disk before the data it names.
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except BaseException:
        delete_file(part)
        raise
    return part


def _write(descriptor: int, data: bytes) -> None:
    # Plain calls: a file object takes longer to make than a small artifact takes to write.
    left = memoryview(data)
    while left:
        left = left[os.write(descriptor, left) :]


def _open_part(path: str | Path) -> tuple[str, int]:
    """Open a file that is not there yet beside a path, making its folder where that is not there either."""
    part = os.path.join(os.path.dirname(path), _part_name())
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY
    try:
        return part, os.open(part, flags, 0o666)
    except FileNotFoundError:
        os.makedirs(os.path.dirname(part), exist_ok=True)
        return part, os.open(part, flags, 0o666)


def _part_name() -> str:
    return f"{TEMPORARY_PREFIX}{_PROCESS}-{os.getpid()}-{next(_numbers)}"
