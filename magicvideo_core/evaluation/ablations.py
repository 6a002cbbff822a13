"""Makes the same clips in several ways, one thing switched off at a time, and judges each; goes on where it stopped.

{output}/references/{recipe}/{clip_id}.png          T2I once, for all variants
{output}/keyframes/{recipe}/{clip_id}.mkv           the baseline's, for the variants that only change V2V
{output}/verdicts/{variant}.{recipe}/{clip_id}.json what the oracle says of one clip's keyframes and refined frames
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from magicvideo_core.clips import Clip
from magicvideo_core.config import RunConfig
from magicvideo_core.errors import ClipError, ConfigError
from magicvideo_core.evaluation.fidelity import upscaled
from magicvideo_core.evaluation.prompt_sets import evaluation_rows
from magicvideo_core.evaluation.scoring import judge_sample
from magicvideo_core.evaluation.variants import Variant
from magicvideo_core.ids import short_hash
from magicvideo_core.media import decode_image, decode_video, encode_lossless, encode_png
from magicvideo_core.prompts import clip_of_prompt
from magicvideo_core.sample import loaded_stage
from magicvideo_core.stages.base import Frames, StageItem, keyframe_fps
from magicvideo_core.stages.registry import recipe_hashes
from magicvideo_core.storage import Storage

# VFI is left out: it changes none of what is compared here, and costs as much as a stage.
STAGES_OVERRIDE = "stages=t2i,i2v,v2v"

# What is known of one clip in one stage: attributes (and "all") as bool or None, measures as float.
Values = dict[str, bool | float | None]


@dataclass(frozen=True, slots=True)
class Ablation:
    """One variant with its resolved configuration, and hashes over what decides each stage's frames."""

    variant: Variant
    config: RunConfig
    recipes: Mapping[str, str]

    @property
    def folder(self) -> str:
        """Where its verdicts lie."""
        return f"verdicts/{self.variant.name}.{self.recipes['final']}"


@dataclass(slots=True)
class VariantVerdict:
    """The verdicts on one variant's clips by stage ("i2v", "v2v") and clip id; `failed` says why clips were not made."""

    variant: Variant
    values: dict[str, dict[str, Values]] = field(default_factory=lambda: {"i2v": {}, "v2v": {}})
    failed: dict[str, str] = field(default_factory=dict)

    def add(self, record: Mapping[str, Any]) -> None:
        """Take the stored verdict on one clip."""
        if record["error"] is not None:
            self.failed[record["clip_id"]] = record["error"]
            return
        for stage, found in self.values.items():
            judged = record[stage]
            found[record["clip_id"]] = {**judged["correct"], "all": judged["all"], **judged["measures"]}


def resolve_ablations(
    variants: Sequence[Variant], load: Callable[[Sequence[str]], RunConfig]
) -> tuple[list[Ablation], list[Variant]]:
    """Resolve variants with `load` (overrides to configuration); also those left out, being the baseline by another name.

    Raises ConfigError where the configuration cannot run T2I, I2V and V2V, or asks for frames that are not square.
    """
    ablations: list[Ablation] = []
    same: list[Variant] = []
    for variant in variants:
        config = load((STAGES_OVERRIDE, *variant.overrides))
        if any(config.stage(name).height != config.stage(name).width for name in ("t2i", "i2v", "v2v")):  # type: ignore[union-attr]
            raise ConfigError("The oracle judges square frames: give t2i, i2v and v2v the same height and width.")
        recipes = recipe_hashes(config)
        last = [recipes["i2v"], config.v2v.height] if variant.upscaling == "bicubic" else [recipes["v2v"]]
        ablation = Ablation(variant, config, {**recipes, "final": short_hash([variant.upscaling, *last])})
        if ablations and ablation.recipes["final"] == ablations[0].recipes["final"]:
            same.append(variant)
        else:
            ablations.append(ablation)
    return ablations, same


def ablation_clips(count: int, seed: int = 0, num_objects: int = 1) -> list[Clip]:
    """The clips of an evaluation prompt set, trained and held-out triples in turn."""
    return [clip_of_prompt(row["prompt"], row["seed"]) for row in evaluation_rows(count, seed, num_objects)]


def run_ablations(
    storage: Storage,
    clips: Sequence[Clip],
    ablations: Sequence[Ablation],
    on_clip: Callable[[int, int, str], None] = lambda done, total, part: None,
) -> Iterator[VariantVerdict]:
    """Make and judge the clips variant by variant, the first being the baseline; yields each verdict as it ends.

    What lies in `storage` is not made again. `on_clip` hears how many clips of which part are done, of how many.
    """
    baseline = ablations[0]
    references, failed = _paint(storage, clips, baseline, on_clip)
    for ablation in ablations:
        verdict = VariantVerdict(ablation.variant, failed=dict(failed))
        stored = set(storage.list(ablation.folder))
        with _Stages(ablation.config) as stages:
            for done, clip in enumerate((each for each in clips if each.clip_id in references), start=1):
                key = f"{ablation.folder}/{clip.clip_id}.json"
                record = _read_record(storage, key) if key in stored else None
                if record is None:
                    record = _judged(storage, clip, references[clip.clip_id], ablation, baseline, stages)
                    storage.write(key, json.dumps(record).encode())
                verdict.add(record)
                on_clip(done, len(references), ablation.variant.name)
        yield verdict


class _Stages:
    """The stages of one configuration, each loaded when it is first needed; a context manager."""

    def __init__(self, config: RunConfig) -> None:
        self._config = config
        self._opened = ExitStack()
        self._runs: dict[str, Callable[[StageItem], Frames]] = {}

    def run(self, name: str, item: StageItem) -> Frames:
        """One item through one stage. Raises ClipError."""
        if name not in self._runs:
            self._runs[name] = self._opened.enter_context(loaded_stage(name, self._config))
        return self._runs[name](item)

    def __enter__(self) -> _Stages:
        return self

    def __exit__(self, *details: object) -> None:
        self._opened.close()


def _read_record(storage: Storage, key: str) -> dict[str, Any] | None:
    """A stored verdict; None where it is torn, so that it is made again."""
    try:
        record: dict[str, Any] = json.loads(storage.read(key))
    except ValueError:
        return None
    return record


def _paint(
    storage: Storage, clips: Sequence[Clip], baseline: Ablation, on_clip: Callable[[int, int, str], None]
) -> tuple[dict[str, Frames], dict[str, str]]:
    """Each clip's reference image by clip id, painted where it is not stored; and why some could not be."""
    folder = f"references/{baseline.recipes['t2i']}"
    stored = set(storage.list(folder))
    references: dict[str, Frames] = {}
    failed: dict[str, str] = {}
    with _Stages(baseline.config) as stages:
        for done, clip in enumerate(clips, start=1):
            key = f"{folder}/{clip.clip_id}.png"
            try:
                if key in stored:
                    references[clip.clip_id] = decode_image(storage.read(key))
                else:
                    references[clip.clip_id] = stages.run("t2i", StageItem(clip))[0]
                    storage.write(key, encode_png(references[clip.clip_id]))
            except ClipError as error:
                failed[clip.clip_id] = f"t2i: {type(error).__name__}: {error}"
            on_clip(done, len(clips), "references")
    return references, failed


def _judged(
    storage: Storage, clip: Clip, reference: Frames, ablation: Ablation, baseline: Ablation, stages: _Stages
) -> dict[str, Any]:
    """Make one clip's keyframes and refined frames and judge both: the record to store."""
    record: dict[str, Any] = {"clip_id": clip.clip_id, "prompt": clip.prompt, "seed": clip.seed, "error": None}
    try:
        keyframes = _keyframes(storage, clip, reference, ablation, baseline, stages)
        if ablation.variant.upscaling == "bicubic":
            refined = upscaled(keyframes, (ablation.config.v2v.height, ablation.config.v2v.width))
        else:
            refined = stages.run("v2v", StageItem(clip, reference, keyframes))
    except ClipError as error:
        return {**record, "error": f"{type(error).__name__}: {error}"}
    for stage, frames in (("i2v", keyframes), ("v2v", refined)):
        result = judge_sample(clip.prompt, frames, clip.clip_id, reference)
        assert result is not None, "evaluation prompts are canonical"
        record[stage] = result.as_dict()
    return record


def _keyframes(
    storage: Storage, clip: Clip, reference: Frames, ablation: Ablation, baseline: Ablation, stages: _Stages
) -> Frames:
    shared = ablation.recipes["i2v"] == baseline.recipes["i2v"]
    key = f"keyframes/{baseline.recipes['i2v']}/{clip.clip_id}.mkv"
    if shared and storage.exists(key):
        return decode_video(storage.read(key)).frames_THWC_u8
    keyframes = stages.run("i2v", StageItem(clip, reference))
    if shared:
        storage.write(key, encode_lossless(keyframes, keyframe_fps(ablation.config)))
    return keyframes
