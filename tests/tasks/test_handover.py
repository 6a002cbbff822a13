"""Clips that go from stage to stage inside a driver before their shard is done."""

import threading

import pytest

from magicvideo_core.manifest.schema import ManifestRow
from tasks.handover import Handover


def row(stage: str, clip_id: str, shard_id: int = 0) -> ManifestRow:
    return ManifestRow(
        run_id="r", clip_id=clip_id, shard_id=shard_id, stage=stage, attempt=1, status="succeeded", prompt="p", seed=0
    )


def test_a_clip_is_given_once_as_soon_as_every_stage_that_is_read_has_it() -> None:
    handover = Handover(["t2i", "i2v", "v2v"])
    handover.publish([row("t2i", "a"), row("t2i", "b"), row("i2v", "b"), row("i2v", "other shard", 1)])
    follow = handover.follow(["t2i", "i2v"], 0, ["a", "b"])
    clip_ids, rows = next(follow)
    assert (clip_ids, rows["t2i"]["b"], rows["i2v"]["b"]) == (["b"], row("t2i", "b"), row("i2v", "b"))
    threading.Timer(0.05, handover.publish, [[row("i2v", "a")]]).start()
    assert next(follow)[0] == ["a"]
    assert list(follow) == []


def test_a_stage_that_reads_nothing_gets_all_its_clips_at_once() -> None:
    assert list(Handover(["t2i"]).follow([], 0, ["a", "b"])) == [(["a", "b"], {})]


def test_whoever_waits_is_told_why_nothing_comes_any_more() -> None:
    handover = Handover(["t2i", "i2v"])
    threading.Timer(0.05, handover.stop, [RuntimeError("enough")]).start()
    with pytest.raises(RuntimeError, match="enough"):
        next(handover.follow(["t2i"], 0, ["a"]))
    with pytest.raises(RuntimeError, match="enough"):
        handover.wait_until_closed(["t2i"], 0)
    # What is there already is given all the same.
    handover.publish([row("t2i", "a")])
    assert next(handover.follow(["t2i"], 0, ["a"]))[0] == ["a"]


def test_nothing_is_kept_of_a_shard_that_is_done() -> None:
    handover = Handover(["t2i", "i2v"])
    for stage in ("t2i", "i2v"):
        handover.publish([row(stage, "a")])
        handover.close(stage, 0)
    assert handover._shards == {}
