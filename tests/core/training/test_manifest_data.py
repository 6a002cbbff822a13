"""Training on a person's own media: which rows count, what is drawn from them, and what is skipped or refused."""

import logging
import random
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from magicvideo_core.errors import ConfigError
from magicvideo_core.manifest.schema import ManifestRow
from magicvideo_core.manifest.table import write_manifest
from magicvideo_core.media import encode_lossless, encode_mp4, encode_png
from magicvideo_core.storage import Storage
from magicvideo_core.training.curves import read_log
from magicvideo_core.training.data import MovingShapes
from magicvideo_core.training.manifest_data import PIXELS, ManifestData, prepare
from magicvideo_core.training.manifest_rows import read_media_rows
from magicvideo_core.training.modules import train

TINY = Path(__file__).resolve().parents[3] / "magicvideo_core" / "weights" / "tiny"


def _ramp(num_frames: int, height: int = 32, width: int = 48) -> np.ndarray:
    """Frame t is gray of level 5 t."""
    return np.stack([np.full((height, width, 3), 5 * index, np.uint8) for index in range(num_frames)])


def _write(path: Path, rows: list[dict[str, object]]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)
    return str(path)


@pytest.fixture
def own(tmp_path: Path) -> str:
    """A table with a video of 31 frames and an image, named relative to it, and one row of each kind that is bad."""
    media = tmp_path / "own" / "media"
    media.mkdir(parents=True)
    (media / "long.mkv").write_bytes(encode_lossless(_ramp(31), 10))
    (media / "short.mkv").write_bytes(encode_lossless(_ramp(7), 10))
    (media / "picture.png").write_bytes(encode_png(np.full((200, 300, 3), 200, np.uint8)))
    (media / "broken.mp4").write_bytes(encode_mp4(_ramp(20), 10)[:200])
    captions = {"long.mkv": "It gets Brighter", "short.mkv": "so does this", "picture.png": "a gray wall, plain"}
    rows = [{"uri": f"media/{name}", "caption": caption} for name, caption in captions.items()]
    rows += [{"uri": f"media/{name}", "caption": "x"} for name in ("broken.mp4", "absent.png")]
    rows += [{"uri": "media/picture.png", "caption": " "}, {"uri": None, "caption": "nowhere"}]
    return _write(tmp_path / "own" / "data.parquet", rows)


def test_bad_rows_are_skipped_with_a_warning_each_and_a_count(own, tmp_path, caplog):
    prepare([own], tmp_path / "data", needs_videos=True)
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 5
    for row, reason in zip(warnings, ("row 4", "row 5", "row 6: its caption", "row 7: it names no"), strict=False):
        assert reason in row
    assert warnings[-1] == "4 of 7 rows of the training data are skipped"
    data = ManifestData(tmp_path / "data")
    assert [(sample.caption, sample.count) for sample in data.samples] == [
        ("It gets Brighter", 16),
        ("so does this", 7),
        ("a gray wall, plain", 1),
    ]
    assert {"brighter", ",", "wall", "circle"} <= set(data.vocabulary)


def test_keyframes_come_evenly_and_captions_as_given(own, tmp_path):
    prepare([own], tmp_path / "data", needs_videos=True)
    data = ManifestData(tmp_path / "data", caption_dropout=0.0)
    clips = data.clips(2, random.Random(0))
    assert clips.captions == ["It gets Brighter"] * 2
    shown = clips.show([0, 8, 15], 64)
    assert shown.frames_NCHW.shape == (6, 3, 64, 64)
    # Keyframe k of 16 from 31 frames is frame 2 k.
    levels = shown.frames_NCHW.mean((1, 2, 3)) * 255
    assert torch.allclose(levels, torch.tensor([0.0, 80.0, 150.0] * 2), atol=1)
    assert not shown.masks_NHW.any()
    assert shown.plain() is shown.frames_NCHW
    stills = data.stills(200, random.Random(0))
    assert set(stills.captions) == {"It gets Brighter", "so does this", "a gray wall, plain"}
    assert stills.show([0], PIXELS).frames_NCHW.shape == (200, 3, PIXELS, PIXELS)
    dropped = ManifestData(tmp_path / "data", caption_dropout=0.5).stills(400, random.Random(0)).captions
    assert 150 < list(dropped).count("") < 250


def test_it_is_decoded_once_and_other_rows_are_refused(own, tmp_path):
    prepare([own], tmp_path / "data", needs_videos=True)
    before = (tmp_path / "data" / "frames.u8").stat()
    (Path(own).parent / "media" / "long.mkv").unlink()
    prepare([own], tmp_path / "data", needs_videos=True)
    assert (tmp_path / "data" / "frames.u8").stat() == before
    other = _write(tmp_path / "other.parquet", [{"uri": "x.png", "caption": "y"}])
    with pytest.raises(ConfigError, match="begun with other data"):
        prepare([other], tmp_path / "data", needs_videos=False)


def test_data_without_anything_to_train_on_is_refused(own, tmp_path):
    bad = _write(tmp_path / "bad.parquet", [{"uri": "absent.png", "caption": "y"}])
    with pytest.raises(ConfigError, match="nothing to train on: 1 rows, 1 of them skipped"):
        prepare([bad], tmp_path / "a", needs_videos=False)
    picture = str(Path(own).parent / "media" / "picture.png")
    stills = _write(tmp_path / "stills.parquet", [{"uri": picture, "caption": "y"}])
    with pytest.raises(ConfigError, match="holds no video of 16 frames"):
        train("i2v", tmp_path / "b", base=TINY, data=[stills])
    with pytest.raises(ConfigError, match="no column 'caption': name one of its columns so"):
        prepare([_write(tmp_path / "c.parquet", [{"uri": "x", "words": "y"}])], tmp_path / "c", needs_videos=False)
    with pytest.raises(ConfigError, match="holds no Parquet file"):
        prepare([str(tmp_path / "nowhere")], tmp_path / "d", needs_videos=False)
    (tmp_path / "torn.parquet").write_bytes(b"PAR1")
    with pytest.raises(ConfigError, match="cannot be read"):
        prepare([str(tmp_path / "torn.parquet")], tmp_path / "e", needs_videos=False)
    with pytest.raises(ConfigError, match="vfi takes no --data"):
        train("vfi", tmp_path / "f", data=[own])
    assert not [name for name in "abcdef" if (tmp_path / name).exists()]


def test_a_run_counts_each_clip_once_with_its_last_finished_stage(rendered_run, tmp_path):
    # A copy of the run is read from where it lies now.
    copy = shutil.copytree(rendered_run.uri, tmp_path / "copy")
    rows = read_media_rows([str(copy)])
    assert all(row.uris[0].startswith(str(copy)) for row in rows)
    assert [row.uris[0].rpartition(".")[2] for row in rows] == ["mp4", "mp4"]
    assert {row.caption for row in rows} == {
        "a big red circle moving right on a navy background",
        "a small dotted blue circle spinning on a gray background",
    }
    # Asked for by file, the stage that is named counts.
    images = read_media_rows([rendered_run.join("manifests", "t2i", "*.parquet")])
    assert [row.uris[0].rpartition(".")[2] for row in images] == ["png", "png"]
    prepare([str(copy)], tmp_path / "data", needs_videos=True)
    assert [sample.count for sample in ManifestData(tmp_path / "data").samples] == [16, 16]


def test_the_latest_attempt_of_a_clip_decides(tmp_path):
    storage = Storage(tmp_path / "run")
    base = {"run_id": "r", "clip_id": "c", "shard_id": 0, "stage": "i2v", "prompt": "p", "seed": 1}
    done = base | {"attempt": 1, "status": "succeeded", "artifact_uri": storage.join("artifacts/i2v/c.mkv")}
    lost = base | {"attempt": 2, "status": "failed"}
    write_manifest(storage, "i2v", 0, 1, [ManifestRow.from_dict(done)])
    assert len(read_media_rows([storage.uri])) == 1
    write_manifest(storage, "i2v", 0, 2, [ManifestRow.from_dict(lost)])
    assert read_media_rows([storage.uri]) == []


def test_every_module_trains_on_own_media_and_draws_its_curves(own, tmp_path, caplog):
    options = dict(data=[own], steps=1, threads=1, seed=1)
    train("vae", tmp_path / "vae", parts=8, **options)
    train("t2i", tmp_path / "t2i", base=tmp_path / "vae", parts=8, mixture={"image64": 1.0}, **options)
    assert "brighter" in (tmp_path / "t2i" / "tokenizer" / "tokenizer.json").read_text()
    caplog.clear()
    mixture = {"i2v": 1.0, "v2v": 1.0}
    train("i2v", tmp_path / "i2v", base=TINY, parts=4, frames_per_clip=2, mixture=mixture, **options)
    assert "knows not the words brighter" in caplog.text
    for module in ("vae", "t2i", "i2v"):
        assert len(read_log(tmp_path / module)) == 1
        assert "polyline" in (tmp_path / module / "loss.svg").read_text()


def test_rendered_and_own_data_have_the_same_shapes(own, tmp_path):
    prepare([own], tmp_path / "data", needs_videos=True)
    for data in (MovingShapes(), ManifestData(tmp_path / "data")):
        for draw, keyframes in ((data.pictures, [0]), (data.stills, [0]), (data.clips, [0, 5, 15])):
            batch = draw(2, random.Random(3))
            shown = batch.show(keyframes, 64)
            assert len(batch.captions) == 2
            assert shown.frames_NCHW.shape == shown.plain().shape == (2 * len(keyframes), 3, 64, 64)
            assert shown.masks_NHW.shape == (2 * len(keyframes), 64, 64)
            assert shown.frames_NCHW.dtype == torch.float32
            assert shown.frames_NCHW.min() >= 0 and shown.frames_NCHW.max() <= 1
