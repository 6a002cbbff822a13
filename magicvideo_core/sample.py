"""One clip through all stages in this process, without Prefect or Ray."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager

from magicvideo_core.clips import Clip
from magicvideo_core.config.models import RunConfig
from magicvideo_core.errors import ConfigError
from magicvideo_core.prompts import clip_of_prompt
from magicvideo_core.stages import gate
from magicvideo_core.stages.base import Frames, Stage, StageItem
from magicvideo_core.stages.registry import create_stage, resolve_device


def sample_clip(
    prompt: str, config: RunConfig, seed: int, *, on_stage: Callable[[str], None] = lambda stage: None
) -> dict[str, Frames]:
    """Return each stage's frames (uint8 RGB THWC, T = 1 for t2i) for one prompt; the last stage's are the video.

    The same prompt and seed give the same frames as in a run. `on_stage` hears each stage's name before it starts.
    Raises ClipError where a stage fails or its gate refuses, WeightsError where weights are missing.
    """
    clip = clip_of_prompt(prompt, seed)
    return sample_batch([clip], config, on_stage=on_stage)[0]


def sample_batch(
    clips: Sequence[Clip], config: RunConfig, *, on_stage: Callable[[str], None] = lambda stage: None
) -> list[dict[str, Frames]]:
    """Return each clip's frames by stage, in the order of `clips`, each stage loaded once; raises as `sample_clip`."""
    if config.stages[0] != "t2i":
        raise ConfigError(f"Invalid value {config.stages[0]!r} first in key 'stages': a prompt alone starts at t2i.")
    results: list[dict[str, Frames]] = [{} for _ in clips]
    for name in config.stages:
        on_stage(name)
        with loaded_stage(name, config) as run:
            for clip, frames in zip(clips, results, strict=True):
                frames[name] = run(_item(clip, frames))
    return results


@contextmanager
def loaded_stage(name: str, config: RunConfig) -> Iterator[Callable[[StageItem], Frames]]:
    """One stage, loaded, as a function of one item that raises as `sample_clip`; closed at the end."""
    with closing(create_stage(name, config)) as stage:
        stage.load("cpu" if config.stage(name).backend == "fake" else resolve_device(config.device))
        yield lambda item: _run_stage(name, stage, item, config)


def _item(clip: Clip, frames: dict[str, Frames]) -> StageItem:
    """Hand a stage what the stages before it made: the reference image, and the latest frames of more than one."""
    reference = frames["t2i"][0] if "t2i" in frames else None
    keyframes = next((frames[name] for name in ("v2v", "i2v") if name in frames), None)
    return StageItem(clip, reference, keyframes)


def _run_stage(name: str, stage: Stage, item: StageItem, config: RunConfig) -> Frames:
    outcome = stage.process([item])[0]
    if outcome.error is not None:
        raise outcome.error
    assert outcome.frames_THWC_u8 is not None, "an outcome holds frames or an error"
    num_input_frames = None if item.frames_THWC_u8 is None else len(item.frames_THWC_u8)
    gate.check(outcome.frames_THWC_u8, config.stage(name), num_input_frames=num_input_frames)
    return outcome.frames_THWC_u8
