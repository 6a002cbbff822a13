"""Storage: one suite over local disk, an fsspec filesystem and a real S3, then what only one of them can show."""

import hashlib
import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.spec import AbstractFileSystem

from magicvideo_core import disk_sync, local_files
from magicvideo_core.errors import RunError
from magicvideo_core.storage import Storage, check_writable, expand_uri, read_uri


@pytest.fixture(params=["local", "file", "memory", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "s3":
        return Storage(request.getfixturevalue("s3").uri(f"{tmp_path.name}/run"))
    uris = {"local": f"{tmp_path}/run", "file": f"file://{tmp_path}/run", "memory": f"memory://{tmp_path.name}/run"}
    return Storage(uris[request.param])


def test_what_is_written_is_read_listed_and_deleted(storage: Storage) -> None:
    stored = storage.write("artifacts/t2i/a.png", b"bytes")
    assert stored.uri == storage.join("artifacts", "t2i", "a.png")
    assert (stored.sha256, stored.size_bytes) == (hashlib.sha256(b"bytes").hexdigest(), 5)
    storage.write("run.json", b"{}")
    assert storage.read("artifacts/t2i/a.png") == read_uri(stored.uri) == b"bytes"
    assert storage.list() == ["artifacts/t2i/a.png", "run.json"]
    assert storage.list("artifacts") == ["artifacts/t2i/a.png"]
    assert storage.list("journal") == []
    assert storage.exists("run.json")
    assert not storage.exists("artifacts")
    storage.delete("run.json")
    storage.delete("run.json")
    assert not storage.exists("run.json")
    with pytest.raises(FileNotFoundError):
        storage.read("run.json")


def test_a_full_folder_is_listed_by_the_beginning_of_names(storage: Storage) -> None:
    for key in ("m/shard-1.a", "m/shard-1.b", "m/shard-10.a", "m/shard-1.c/d", "n/shard-1.a"):
        storage.write(key, key.encode())
    found = storage.list("m", name_prefix="shard-1.")
    assert [key for key in found if not key.endswith("/d")] == ["m/shard-1.a", "m/shard-1.b"]
    assert storage.list("nothing", name_prefix="shard-1.") == []


def test_writing_again_replaces(storage: Storage) -> None:
    storage.write("key", b"old")
    storage.write("key", b"new")
    assert storage.read("key") == b"new"
    assert storage.list() == ["key"]


def test_storage_pickles_as_its_uri(storage: Storage) -> None:
    storage.write("key", b"x")
    other = pickle.loads(pickle.dumps(storage))
    assert other == storage
    assert other.read("key") == b"x"


def test_relative_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Storage("runs").uri == f"{tmp_path}/runs"
    assert Storage("runs").write("a", b"").uri == f"{tmp_path}/runs/a"


def test_an_interrupted_local_write_leaves_no_object(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = Storage(tmp_path)
    storage.write("key", b"old")

    def interrupt(*_: object) -> None:
        assert storage.read("key") == b"old"
        raise KeyboardInterrupt

    monkeypatch.setattr(local_files.os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        storage.write("key", b"new")
    assert storage.read("key") == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["key"]


def test_several_objects_are_stored_together(storage: Storage) -> None:
    objects = [(f"artifacts/{name}/{n}", f"{name}{n}".encode()) for name in "ab" for n in range(4)]
    stored = storage.write_together(objects)
    assert storage.list() == [key for key, _ in objects]
    for (key, data), each in zip(objects, stored, strict=True):
        assert storage.read(key) == data
        assert each == storage.write(key, data)
    assert storage.write_together([]) == []


def test_several_objects_are_on_the_disk_before_any_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def watched(name: str, call: Any) -> Any:
        def instead(*arguments: Any) -> Any:
            seen.append(name)
            return call(*arguments)

        return instead

    seen: list[str] = []
    syncfs = disk_sync._syncfs()
    monkeypatch.setattr(disk_sync, "_syncfs", lambda: syncfs and watched("all", syncfs))
    monkeypatch.setattr(local_files.os, "replace", watched("name", os.replace))
    monkeypatch.setattr(local_files.os, "fsync", watched("one", os.fsync))
    objects = [(f"key{n}", b"data") for n in range(5)]
    for file_system, waits in (("ext4", ["all"] if syncfs else ["one"] * 5), ("nfs4", ["one"] * 5)):
        monkeypatch.setattr(disk_sync, "_file_system", lambda device, answer=file_system: answer)
        seen.clear()
        Storage(tmp_path).write_together(objects)
        assert seen == [*waits, *["name"] * 5]
    # As quick by themselves.
    seen.clear()
    Storage(tmp_path).write_together(objects[:2])
    assert seen == ["one", "one", "name", "name"]


def test_several_objects_of_which_one_cannot_be_stored_leave_no_parts(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    (tmp_path / "file").write_bytes(b"in the way")
    with pytest.raises(NotADirectoryError):
        storage.write_together([("a", b"1"), ("b", b"2"), ("file/c", b"3")])
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_disk_of_which_the_system_says_nothing_is_waited_for_file_by_file() -> None:
    assert disk_sync._file_system(os.makedev(4095, 4095)) == ""


def test_a_killed_write_is_not_listed(tmp_path: Path) -> None:
    (tmp_path / ".part-0123").write_bytes(b"half")
    assert Storage(tmp_path).list() == []


def test_creating_leaves_what_is_there(storage: Storage) -> None:
    created = storage.create("a/key", b"mine")
    assert created == storage.create("a/key", b"mine"), "the same bytes again: the reply may have been lost"
    assert storage.create("a/key", b"theirs") is None
    assert storage.read("a/key") == b"mine"
    assert storage.list() == ["a/key"]


def test_one_of_many_creators_succeeds(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    assert storage.creates_atomically()
    with ThreadPoolExecutor(8) as executor:
        created = list(executor.map(lambda n: storage.create("key", b"%d" % n), range(32)))
    winners = [stored for stored in created if stored is not None]
    assert len(winners) == 1
    assert hashlib.sha256(storage.read("key")).hexdigest() == winners[0].sha256
    assert [path.name for path in tmp_path.iterdir()] == ["key"]


def test_sizes_are_listed(storage: Storage) -> None:
    storage.write("b/two", b"22")
    storage.write("b/one", b"1")
    storage.write("bc/none", b"")
    assert storage.list_sizes() == {"b/one": 1, "b/two": 2, "bc/none": 0}
    assert storage.list_sizes("b") == {"b/one": 1, "b/two": 2}
    assert storage.list_sizes("c") == {}
    assert storage.size_bytes("b/two") == 2
    for absent in ("b", "b/three"):
        with pytest.raises(FileNotFoundError):
            storage.size_bytes(absent)


def test_copies_within_and_across_storages(storage: Storage, tmp_path: Path) -> None:
    storage.write("from", b"bytes")
    elsewhere = Storage(f"memory://{tmp_path.name}/elsewhere"), Storage(tmp_path / "elsewhere")
    for other in (storage, *elsewhere):
        assert other.copy_from(storage.join("from"), "a/to") == 5
        # Replacing either leaves the other as it is.
        storage.write("from", b"other")
        assert other.read("a/to") == b"bytes"
        storage.write("from", b"bytes")
        assert other.copy_from(storage.join("from"), "a/to") == 5
        assert other.list("a") == ["a/to"]
        with pytest.raises(FileNotFoundError):
            other.copy_from(storage.join("nothing"), "to")


def test_expand_uri_globs_only_where_asked(tmp_path: Path) -> None:
    for name in ("b.txt", "a.txt", "c[1].txt"):
        (tmp_path / name).touch()
    assert expand_uri(f"{tmp_path}/[ab].txt") == [f"{tmp_path}/a.txt", f"{tmp_path}/b.txt"]
    assert expand_uri(f"{tmp_path}/c[1].txt") == [f"{tmp_path}/c[1].txt"]
    assert expand_uri("s3://bucket/key.txt") == ["s3://bucket/key.txt"]


def test_a_glob_on_a_store_names_files_by_level(storage: Storage) -> None:
    keys = ("b.txt", "a.txt", "a.csv", "one/run.json", "two/run.json", "two/deep/run.json", "three/other.json")
    for key in keys:
        storage.write(key, b"")

    def named(pattern: str) -> list[str]:
        return [uri.partition("/run/")[2] for uri in expand_uri(storage.join(pattern))]

    assert named("*.txt") == named("[ab].txt") == named("?.txt") == ["a.txt", "b.txt"]
    assert named("a.*") == ["a.csv", "a.txt"]
    assert named("*/run.json") == ["one/run.json", "two/run.json"]
    assert named("t*/*/*.json") == ["two/deep/run.json"]
    assert named("two/**/run.json") == ["two/deep/run.json", "two/run.json"]
    assert named("*") == ["a.csv", "a.txt", "b.txt", "one", "three", "two"]
    assert named("nothing/*.txt") == named("*.md") == named("a.txt/*") == []


class _FailsAtFirst(MemoryFileSystem):
    """A store without a listing of its own by prefix, which cannot be reached the first time that a folder is listed."""

    protocol = "failsatfirst"
    find = AbstractFileSystem.find
    listed: ClassVar[set[str]] = set()

    def ls(self, path: str, detail: bool = True, **options: Any) -> Any:
        if path not in self.listed:
            self.listed.add(path)
            raise ConnectionResetError(path)
        return super().ls(path, detail=detail, **options)


def test_a_folder_that_cannot_be_listed_at_first_is_no_empty_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("magicvideo_core.patience._FIRST_BACKOFF_S", 0.0)
    fsspec.register_implementation("failsatfirst", _FailsAtFirst, clobber=True)
    storage = Storage("failsatfirst://listing")
    keys = ["a/1.txt", "a/b/2.txt", "c/3.txt"]
    for key in keys:
        storage.write(key, b"data")
    assert storage.list() == keys
    for pattern in ("**/*.txt", "*/*.txt"):
        _FailsAtFirst.listed.clear()
        found = expand_uri(storage.join(pattern))
        assert [uri.rpartition("listing/")[2] for uri in found] == [
            key for key in keys if "**" in pattern or "b" not in key
        ]


def test_check_writable_leaves_nothing_and_says_why(tmp_path: Path) -> None:
    check_writable(f"{tmp_path}/new/folder")
    assert list(tmp_path.iterdir()) == []
    check_writable("memory://check-writable")
    assert fsspec.filesystem("memory").find("/check-writable") == []
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="has a user, password or query"):
        check_writable("s3://someone:pass@bucket/runs")
    for uri in (f"{tmp_path}/file/run", "/proc/none/run", "nosuchprotocol://bucket/run"):
        with pytest.raises(RunError) as caught:
            check_writable(uri)
        assert uri in str(caught.value)
        assert "\n" not in str(caught.value)
