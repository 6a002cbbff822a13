"""Datasets are whole or go on to be: the same bytes whatever interrupted the writing, read back by those who read them."""

import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from core.dataset.small_runs import write_run

from flows.cli import run_command
from magicvideo_core.dataset.export import export
from magicvideo_core.dataset.request import ExportRequest, export_request
from magicvideo_core.errors import ConfigError, UpstreamLostError
from magicvideo_core.manifest.table import read_manifests
from magicvideo_core.media import decode_video
from magicvideo_core.prompts import clip_of_prompt
from magicvideo_core.storage import Storage
from magicvideo_core.training.manifest_rows import read_media_rows

FORMATS = ("webdataset", "huggingface")


def request_for(run: Storage, layout: str, **options: Any) -> ExportRequest:
    values = {"splits": "train=0.7,test=0.3", "shard_clips": 3, "include": ("t2i",), "measurements": False, **options}
    return export_request(runs=(run.uri,), format=layout, **values)


def contents(place: Storage) -> dict[str, bytes]:
    return {key: place.read(key) for key in place.list()}


@pytest.mark.parametrize("layout", FORMATS)
def test_whatever_interrupts_it_the_bytes_are_the_same(
    small_run: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str
) -> None:
    request = request_for(small_run, layout)
    whole = Storage(tmp_path / "whole")
    summary = export(request, whole.uri)
    expected = contents(whole)
    assert summary["num_samples"] == 9 and sum(each["num_samples"] for each in summary["splits"].values()) == 9
    assert "_export/request.json" not in expected

    write, allowed = Storage.write, 0

    def write_until_stopped(storage: Storage, key: str, data: bytes) -> Any:
        nonlocal allowed
        allowed -= 1
        if allowed < 0:
            raise KeyboardInterrupt
        return write(storage, key, data)

    place = Storage(tmp_path / "stopped")
    stops = 0
    monkeypatch.setattr(Storage, "write", write_until_stopped)
    while True:
        # The probe of `check_writable` needs none on a disk; two more objects each time.
        allowed = 2 + stops
        try:
            assert export(request, place.uri) == {**summary, "to": place.uri}
            break
        except KeyboardInterrupt:
            stops += 1
            assert "dataset.json" not in place.list()
    assert stops > 3 and contents(place) == expected
    # Given again there is nothing to do; what was lost is written again.
    monkeypatch.setattr(Storage, "write", write)
    export(request, place.uri)
    lost = next(key for key in expected if key.endswith((".tar", ".mp4")))
    place.delete(lost)
    export(request, place.uri)
    assert contents(place) == expected


@pytest.mark.parametrize("layout", FORMATS)
def test_another_export_is_refused_and_nothing_is_mixed(small_run: Storage, tmp_path: Path, layout: str) -> None:
    place = Storage(tmp_path / "place")
    export(request_for(small_run, layout), place.uri)
    before = contents(place)
    for change in ({"splits": "train=1"}, {"where": ("seed > 3",)}):
        with pytest.raises(ConfigError, match=f"another export: it differs in .*{next(iter(change))}"):
            export(request_for(small_run, layout, **change), place.uri)
    assert contents(place) == before
    place.write("dataset.json", b"{")
    with pytest.raises(ConfigError, match="is damaged"):
        export(request_for(small_run, layout), place.uri)
    Storage(tmp_path / "other").write("notes.txt", b"mine")
    with pytest.raises(ConfigError, match=r"something at .* already, notes\.txt"):
        export(request_for(small_run, layout), str(tmp_path / "other"))


def test_a_changed_artifact_is_never_exported(small_run: Storage, tmp_path: Path) -> None:
    row = next(row for row in read_manifests(small_run, "vfi") if row.status == "succeeded")
    key = f"artifacts/vfi/{str(row.artifact_uri).rpartition('/')[2]}"
    data = small_run.read(key)
    small_run.write(key, data[:-1] + b"?")
    with pytest.raises(UpstreamLostError, match=f"{key} .* holds .* other bytes"):
        export(request_for(small_run, "webdataset"), str(tmp_path / "place"))
    small_run.write(key, data)
    assert export(request_for(small_run, "webdataset"), str(tmp_path / "place"))["num_samples"] == 9


def test_shards_are_cut_by_number_and_by_size(tmp_path: Path) -> None:
    run = write_run(
        Storage(tmp_path / "run"),
        [clip_of_prompt(f"p{number}", number) for number in range(7)],
        content=lambda stage, clip: clip.clip_id.encode() * 2**15,
    )
    place = Storage(tmp_path / "place")
    # Half a MiB each: two fit.
    export(request_for(run, "webdataset", splits="train=1", shard_mib=1, shard_clips=100, include=()), place.uri)
    assert [key for key in place.list() if key.endswith(".tar")] == [f"train-{number:05d}.tar" for number in range(4)]
    with tarfile.open(fileobj=io.BytesIO(place.read("train-00000.tar"))) as tar:
        member = tar.getmembers()[0]
    assert (member.mtime, member.uid, member.uname) == (0, 0, ""), "nothing of this machine"
    verdicts = pq.read_table(place.join("verdicts.parquet"))
    assert set(verdicts["shard"].to_pylist()) == {f"train-{number:05d}" for number in range(4)}


@pytest.fixture
def quiet_datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """`load_dataset` with a cache of its own, offline."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    import datasets

    datasets.disable_progress_bars()
    yield lambda path, **options: datasets.load_dataset(path, cache_dir=str(tmp_path / "cache"), **options)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


# It leaves its files to the garbage collector.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_webdataset_reads_it_back(own_run: Storage, tmp_path: Path, quiet_datasets: Callable[..., Any]) -> None:
    import webdataset

    place = tmp_path / "place"
    command = ["export", own_run.uri, "--format", "webdataset", "--to", str(place), "--include", "t2i,i2v"]
    assert run_command([*command, "--where", "oracle_all AND motion > 0.1"]) == 0
    manifest = {(row.stage, row.clip_id): row for row in read_manifests(own_run)}
    samples = list(webdataset.WebDataset(str(place / "train-00000.tar"), shardshuffle=False))
    assert len(samples) == 2
    for sample in samples:
        record = json.loads(sample["json"])
        assert record["key"] == sample["__key__"] == record["clip_id"]
        for name, stage in {"mp4": "vfi", "t2i.png": "t2i", "i2v.mkv": "i2v"}.items():
            assert sha256(sample[name]) == manifest[stage, record["clip_id"]].sha256 == record["files"][name]["sha256"]
        assert len(decode_video(sample["mp4"]).frames_THWC_u8) == record["num_frames"] == 22
        assert record["measurements"]["oracle_all"] is True and record["prompt"].startswith("a ")
    # By the card alone, `datasets` finds the splits in a folder of tars too.
    loaded = quiet_datasets(str(place), split="train")
    assert sorted(loaded["__key__"]) == sorted(sample["__key__"] for sample in samples)


def test_datasets_reads_it_back(own_run: Storage, tmp_path: Path, quiet_datasets: Callable[..., Any]) -> None:
    import datasets

    place = tmp_path / "place"
    command = ["export", own_run.uri, "--format", "huggingface", "--to", str(place), "--include", "t2i"]
    assert run_command([*command, "--split", "train=0.5,test=0.5"]) == 0
    loaded = quiet_datasets(str(place))
    assert {name: len(split) for name, split in loaded.items()} == {"train": 1, "test": 1}
    manifest = {row.clip_id: row for row in read_manifests(own_run, "vfi")}
    for split in loaded.values():
        (sample,) = split.cast_column("video", datasets.Video(decode=False))
        row = manifest[sample["clip_id"]]
        assert sha256(Path(sample["video"]["path"]).read_bytes()) == sample["sha256"] == row.sha256
        assert sha256((place / sample["t2i_path"]).read_bytes()) == sample["t2i_sha256"]
        assert (sample["prompt"], sample["seed"], sample["num_frames"]) == (row.prompt, row.seed, row.num_frames)
        assert sample["sharpness"] > 0 and sample["oracle_all"] is True
    # And `magicvideo train --data` takes the folder as it is.
    assert sorted(row.caption for row in read_media_rows([str(place)])) == sorted(
        row.prompt for row in manifest.values() if row.status == "succeeded"
    )
    assert all(Path(row.uris[0]).is_file() for row in read_media_rows([str(place)]))


def test_the_card_says_what_is_in_it(own_run: Storage, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = tmp_path / "place"
    command = ["export", own_run.uri, "--format", "webdataset", "--to", str(place), "--where", "seed < 5"]
    assert run_command([*command, "--license", "cc-by-4.0", "--dry-run", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["num_samples"] == 2 and not place.exists()
    assert run_command([*command, "--license", "cc-by-4.0"]) == 0
    assert "2 of 3 clips exported" in capsys.readouterr().out
    card = (place / "README.md").read_text()
    assert 'license: "cc-by-4.0"' in card and "a big red circle moving right" in card
    assert "the embedded family" in card and "num_inference_steps" in card
    assert json.loads((place / "dataset.json").read_text())["files"]["train-00000.tar"]["sha256"] in card
    # A line right behind a table would be read as a row of it.
    pairs = pairwise(card.splitlines())
    assert all(after == "" or after.startswith("|") for row, after in pairs if row.startswith("|"))
    assert str(tmp_path) not in card and str(own_run.uri) not in (place / "dataset.json").read_text()


def test_wrong_commands_are_one_sentence(
    small_run: Storage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["export", small_run.uri, "--to", str(tmp_path / "place"), "--format"]
    assert run_command([*command, "webdataset", "--where", "sharpness >"]) == 2
    assert run_command([*command, "webdataset", "--split", "a=2"]) == 2
    assert run_command([*command, "zip"]) == 2
    assert run_command(["export", str(tmp_path), "--to", "x", "--format", "webdataset"]) == 2
    assert capsys.readouterr().err.count("error: ") == 4 and not (tmp_path / "place").exists()
    small_run.write("artifacts/vfi/" + small_run.list("artifacts/vfi")[0].rpartition("/")[2], b"?")
    assert run_command([*command, "webdataset", "--no-measurements"]) == 1


def test_a_run_on_s3_is_exported_to_s3(s3: Any, tmp_path: Path) -> None:
    run = write_run(Storage(s3.uri(f"{tmp_path.name}/run")), [clip_of_prompt(f"p{n}", n) for n in range(4)])
    for layout in FORMATS:
        place, local = Storage(s3.uri(f"{tmp_path.name}/{layout}")), Storage(tmp_path / layout)
        export(request_for(run, layout), place.uri)
        export(request_for(run, layout), local.uri)
        assert contents(place) == contents(local)
