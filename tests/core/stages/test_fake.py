"""The fake backend: all four stages through the sample path, deterministic, with faults on demand."""

import numpy as np
import pytest

from magicvideo_core.config import RunConfig, load_config
from magicvideo_core.errors import ConfigError, GateError
from magicvideo_core.ids import STAGES
from magicvideo_core.prompts import clip_of_prompt
from magicvideo_core.sample import sample_batch, sample_clip
from magicvideo_core.stages.base import StageItem
from magicvideo_core.stages.registry import create_stage


def _config(*overrides: str) -> RunConfig:
    return load_config(overrides=[*(f"{stage}.backend=fake" for stage in STAGES), *overrides])


def test_a_sample_has_every_stage_with_its_frames() -> None:
    heard: list[str] = []
    frames = sample_clip("a cat", _config(), 3, on_stage=heard.append)
    assert heard == list(STAGES)
    assert {name: array.shape for name, array in frames.items()} == {
        "t2i": (1, 128, 128, 3),
        "i2v": (16, 64, 64, 3),
        "v2v": (16, 128, 128, 3),
        "vfi": (46, 128, 128, 3),
    }
    assert np.array_equal(frames["vfi"][::3], frames["v2v"])


def test_frames_depend_on_the_seed_and_not_on_batch_mates() -> None:
    clips = [clip_of_prompt("a cat", seed) for seed in (1, 2)]
    together = sample_batch(clips, _config())
    for clip, frames in zip(clips, together, strict=True):
        assert np.array_equal(sample_clip("a cat", _config(), clip.seed)["vfi"], frames["vfi"])
    assert not np.array_equal(together[0]["t2i"], together[1]["t2i"])


def test_faults_strike_the_clips_they_are_for() -> None:
    stage = create_stage("t2i", _config("t2i.fake.faults.cat=clip_error", "t2i.fake.faults.do=raise"))
    stage.load("cpu")
    items = [StageItem(clip_of_prompt(prompt, 1)) for prompt in ("a dog", "a cat")]
    outcomes = stage.process(items)
    assert [outcome.clip_id for outcome in outcomes] == [item.clip.clip_id for item in items]
    assert outcomes[0].error is None
    assert isinstance(outcomes[1].error, GateError)
    with pytest.raises(RuntimeError, match="fault asked for"):
        create_stage("t2i", _config("t2i.fake.faults.cat=raise")).process(items)
    with pytest.raises(GateError, match="not_black"):
        sample_clip("a cat", _config("t2i.fake.faults.cat=black", "t2i.gate.not_black=true"), 1)
    with pytest.raises(GateError, match=r"gate\.finite"):
        sample_clip("a cat, asleep", _config("i2v.fake.faults.cat=nan"), 1)
    with pytest.raises(MemoryError, match="64 MiB"):
        create_stage("t2i", _config("t2i.fake.faults.cat=oom", "t2i.fake.oom_limit_mib=64")).process(items)


def test_a_prompt_alone_starts_at_the_first_stage() -> None:
    with pytest.raises(ConfigError, match="t2i"):
        sample_clip("a cat", _config("stages=v2v,vfi"), 1)
