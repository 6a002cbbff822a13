"""What lies below a URI of a distant store, and what a glob on it names; a listing that fails is never an empty one.

fsspec's own `glob`, `walk` and `find` leave out a folder that could not be listed (their `on_error="omit"`): a prompt set
or a run would silently be smaller.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from magicvideo_core.filesystems import filesystem, lists_by_prefix, strip_protocol
from magicvideo_core.patience import with_retries

_WILDCARDS = "*?["
_NOTHING_THERE = (FileNotFoundError, NotADirectoryError)


def has_wildcards(pattern: str) -> bool:
    """Say whether a path or URL names files by `*`, `?` or `[`."""
    return any(character in pattern for character in _WILDCARDS)


def list_remote(base: str, name_prefix: str = "") -> dict[str, int]:
    """Return the size in bytes of the objects below a folder by their path without protocol.

    With `name_prefix` those whose names in the folder begin so. Raises what the store raises; nothing is retried.
    """
    store = filesystem(base)
    folder = strip_protocol(base).rstrip("/")
    if _walks_folders(store):
        found = _walk(store, folder)
    else:
        by_prefix = {"prefix": name_prefix} if name_prefix and lists_by_prefix(base) else {}
        try:
            found = store.find(base, detail=True, **by_prefix)
        except FileNotFoundError:
            found = {}
    return {
        str(path): int(details["size"])
        for path, details in found.items()
        # A folder without objects is found as itself.
        if details["type"] == "file" and (not name_prefix or str(path).startswith(f"{folder}/{name_prefix}"))
    }


def glob_remote(pattern: str) -> list[str]:
    """Return the sorted URIs that a glob on a distant store names: `*`, `?` and `[...]` within a name, `**` across folders.

    Raises StorageUnavailableError where a folder cannot be listed after the retries, ValueError where `**` is a part
    of a name.
    """
    store = filesystem(pattern)
    names = strip_protocol(pattern).rstrip("/").split("/")
    fixed = next(number for number, name in enumerate(names) if has_wildcards(name))
    root = "/".join(names[:fixed])
    if "**" in names:
        matches = _matcher("/".join(names))
        tree = with_retries(f"list {pattern}", lambda: list_remote(store.unstrip_protocol(root)))
        paths: Iterable[str] = filter(matches, tree)
    else:
        paths = _descend(store, names, fixed, root)
    return sorted(str(store.unstrip_protocol(path)) for path in paths)


def _descend(store: Any, names: list[str], level: int, folder: str) -> Iterator[str]:
    """Yield the paths below `folder`, to which the first `level` names lead, that the other names stand for."""
    if level == len(names):
        yield folder
        return
    if not has_wildcards(names[level]):
        path = f"{folder}/{names[level]}"
        # Whether a folder on the way is there, the listing below it says.
        if level + 1 < len(names) or _is_there(store, path):
            yield from _descend(store, names, level + 1, path)
        return
    matches = _matcher(names[level])
    for details in _folder(store, folder):
        path = str(details["name"]).rstrip("/")
        parent, _, name = path.rpartition("/")
        is_last = level + 1 == len(names)
        if parent == folder and matches(name) and (is_last or details["type"] == "directory"):
            yield from _descend(store, names, level + 1, path)


def _matcher(pattern: str) -> Callable[[str], re.Match[str] | None]:
    from fsspec.utils import glob_translate

    return re.compile(glob_translate(pattern)).match


def _folder(store: Any, folder: str) -> list[dict[str, Any]]:
    try:
        return with_retries(f"list {store.unstrip_protocol(folder)}", lambda: list(store.ls(folder, detail=True)))
    except _NOTHING_THERE:
        return []


def _is_there(store: Any, path: str) -> bool:
    try:
        with_retries(f"look for {store.unstrip_protocol(path)}", lambda: store.info(path))
    except _NOTHING_THERE:
        return False
    return True


def _walks_folders(store: Any) -> bool:
    """Say whether a filesystem's `find` is fsspec's general one, which leaves out what it cannot list."""
    from fsspec.asyn import AsyncFileSystem
    from fsspec.spec import AbstractFileSystem

    if isinstance(store, AsyncFileSystem):
        return type(store)._find is AsyncFileSystem._find
    return type(store).find is AbstractFileSystem.find


def _walk(store: Any, folder: str) -> dict[str, dict[str, Any]]:
    """Return the files below a folder by their path, as `find` with `detail` does."""
    found: dict[str, dict[str, Any]] = {}
    folders = [folder]
    while folders:
        listed = folders.pop()
        try:
            entries = store.ls(listed, detail=True)
        except _NOTHING_THERE:
            continue
        for details in entries:
            path = str(details["name"]).rstrip("/")
            if details["type"] == "directory" and path != listed:
                folders.append(path)
            else:
                found[path] = details
    return found
