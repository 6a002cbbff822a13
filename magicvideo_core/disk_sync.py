"""Waiting for the disk once for several files instead of once for each: `syncfs`, where it does what `fsync` does."""

import ctypes
import os
import platform
import re
import sys
from collections.abc import Callable, Sequence
from functools import cache

# Of these it is known that they write files and metadata and wait for the disk; of others, such as those that a program
# behind FUSE serves, it may only empty the cache of this machine.
_FILE_SYSTEMS = {"ext3", "ext4", "xfs", "f2fs"}
# Before, an error of the disk stayed unsaid.
_KERNEL = (5, 8)
# One call of `syncfs` takes as long as `fsync` of a file or two; it also writes what others have left in the cache.
_WORTH_IT = 4


def sync_together(descriptors: Sequence[int]) -> None:
    """Return once what was written to all these open files is on the disk. Raises OSError where it could not be written.

    The descriptors must have been opened before anything was written to them: only then are errors theirs.
    """
    by_device: dict[int, list[int]] = {}
    for descriptor in descriptors:
        by_device.setdefault(os.fstat(descriptor).st_dev, []).append(descriptor)
    for device, members in by_device.items():
        syncfs = _syncfs() if len(members) >= _WORTH_IT and _file_system(device) in _FILE_SYSTEMS else None
        if syncfs is None:
            for descriptor in members:
                os.fsync(descriptor)
        # One of them stands for all of a file system: the first, opened before the others were written.
        elif syncfs(members[0]):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


@cache
def _syncfs() -> Callable[[int], int] | None:
    """The system's call, None where there is none or where it tells nothing of errors."""
    version = re.match(r"(\d+)\.(\d+)", platform.release())
    if sys.platform != "linux" or version is None or tuple(map(int, version.groups())) < _KERNEL:
        return None
    found = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
    if found is not None:
        found.argtypes, found.restype = [ctypes.c_int], ctypes.c_int
    call: Callable[[int], int] | None = found
    return call


@cache
def _file_system(device: int) -> str:
    """What kind of file system has a device number; empty where the system does not say."""
    number = f"{os.major(device)}:{os.minor(device)}"
    try:
        with open("/proc/self/mountinfo") as file:
            # ID PARENT MAJOR:MINOR ROOT MOUNTPOINT OPTIONS [FIELDS] - TYPE SOURCE OPTIONS
            mounts = [line.split() for line in file]
    except OSError:
        return ""
    return next((words[words.index("-") + 1] for words in mounts if words[2] == number), "")
