"""A run as after a night, of any size and without computing one: rendered media, failures, two sessions, a forecast.

Artifacts are hard links to a few files, so that thousands of clips cost little.
"""

import hashlib
import os
import random
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from magicvideo_core.clips import ClipTable, Shards
from magicvideo_core.config import load_config
from magicvideo_core.ids import STAGES
from magicvideo_core.manifest.layout import artifact_key, manifest_key, measurements_key, session_key
from magicvideo_core.manifest.parquet import table_to_parquet
from magicvideo_core.manifest.plan import write_plan
from magicvideo_core.manifest.run_record import new_run_record, write_run_json
from magicvideo_core.manifest.schema import MANIFEST_SCHEMA
from magicvideo_core.manifest.session import FoundDone, SessionRecord
from magicvideo_core.media import encode_lossless, encode_mp4, encode_png
from magicvideo_core.moving_shapes.renderer import render
from magicvideo_core.moving_shapes.world import sample_scene
from magicvideo_core.prompts import clip_of_prompt
from magicvideo_core.storage import Storage

# A prompt that would be markup, were it not shown as text.
HOSTILE_PROMPT = '</script><script>document.title = "taken"</script><img src=x onerror=alert(1)> & "quotes"'
_SECONDS = {"t2i": 1.3, "i2v": 6.8, "v2v": 18.5, "vfi": 0.5}
_SHAPES = {"t2i": (1, 64, ".png"), "i2v": (8, 32, ".mkv"), "v2v": (8, 64, ".mkv"), "vfi": (22, 64, ".mp4")}
_START = datetime(2026, 11, 1, 20, tzinfo=UTC)
_ERRORS = (
    ("quarantined", "GateError", "the frames are black (gate.not_black)"),
    ("failed", "MediaError", "the image of the prompt file does not decode"),
    ("quarantined", "ClipTimeoutError", "given up after 3 attempts: no result in time, so the actor was killed"),
)


def build_large_run(
    storage: Storage, num_clips: int, num_linked: int | None = None, num_scenes: int = 8, shard_size: int = 500
) -> None:
    """Write a run of `num_clips`, one in thirty stopped and the last twentieth pending; the first `num_linked` have media.

    All have, where that is None. `storage` is a local folder that does not exist yet.
    """
    rng = random.Random(0)
    scenes = [sample_scene(rng) for _ in range(num_scenes)]
    clips = [clip_of_prompt(f"{scenes[i % num_scenes].prompt}, take {i}", i) for i in range(num_clips)]
    clips[1 % num_clips] = clip_of_prompt(HOSTILE_PROMPT, 2**53 + 1)
    shards = Shards.cut(clips, shard_size)
    record = new_run_record(
        "large", load_config("tiny"), dict.fromkeys(STAGES, "0" * 16), "s3://prompts/*.jsonl", shards
    )
    write_run_json(storage, replace(record, forecast=_forecast(num_clips)))
    write_plan(storage, shards)
    media = {stage: [_media(stage, scene) for scene in scenes] for stage in STAGES}
    night_s = sum(_SECONDS.values()) * num_clips / 8
    for shard_id, shard in enumerate(shards):
        numbers = shard_id * shard_size + np.arange(len(shard))
        for stage, rows in _rows(shard, shard_id, numbers, media, night_s, num_clips).items():
            storage.create(manifest_key(stage, shard_id, 1), table_to_parquet(rows))
        _write_measurements(storage, shard, shard_id, numbers, media["vfi"])
    _write_sessions(storage, night_s, num_clips)
    _link(storage, [clip.clip_id for clip in clips[:num_linked]], media)


def _media(stage: str, scene: Any) -> tuple[str, bytes]:
    """Return suffix and bytes of a stage's artifact of a scene."""
    count, size, suffix = _SHAPES[stage]
    frames = render(scene, [index / max(count - 1, 1) for index in range(count)], size)
    if suffix == ".png":
        return suffix, encode_png(frames[0])
    return suffix, encode_mp4(frames, 24.0) if suffix == ".mp4" else encode_lossless(frames, 8.0)


def _rows(
    shard: ClipTable,
    shard_id: int,
    numbers: np.ndarray,
    media: Mapping[str, list[tuple[str, bytes]]],
    night_s: float,
    num_clips: int,
) -> dict[str, pa.Table]:
    """Return the manifests of a shard by stage; `numbers` are its clips' places in the run."""
    tables, rng = {}, np.random.default_rng(shard_id)
    begun = numbers < num_clips - num_clips // 20
    # Of the clips that stop, which stage stops them, and by what.
    stops = np.where(numbers % 30 == 7, (numbers // 30) % len(STAGES), len(STAGES))
    for order, stage in enumerate(STAGES):
        spread = np.exp(rng.normal(0, 0.12, len(shard)))
        seconds = _SECONDS[stage] * spread * np.where(rng.random(len(shard)) < 0.01, 3, 1)
        columns: dict[str, list[Any]] = {name: [] for name in MANIFEST_SCHEMA.names}
        for place, clip in enumerate(shard):
            if not begun[place]:
                continue
            number, stop = int(numbers[place]), int(stops[place])
            at_s = night_s * number / num_clips + 3 * order
            # The night had a break.
            at_s += 20_000 if number > 0.6 * num_clips else 0
            row: dict[str, Any] = {"status": "succeeded" if order < stop else "skipped"}
            if order == stop:
                status, kind, message = _ERRORS[(number // 120) % len(_ERRORS)]
                row = {"status": status, "error_type": kind, "error_message": message}
                row |= {"error_traceback": f"Traceback (most recent call last):\n  clip {number}\n{kind}: {message}"}
            if order < stop:
                suffix, data = media[stage][number % len(media[stage])]
                sha256 = hashlib.sha256(data).hexdigest()
                count, size, _ = _SHAPES[stage]
                row |= {"artifact_uri": f"/elsewhere/large/{artifact_key(stage, clip.clip_id, sha256, suffix)}"}
                row |= {"sha256": sha256, "size_bytes": len(data), "num_frames": count, "width": size, "height": size}
            if order <= stop:
                row |= {"started_at": _START + timedelta(seconds=at_s), "duration_s": float(seconds[place])}
                row |= {"gpu_s": float(seconds[place])}
            row |= {"run_id": "large", "clip_id": clip.clip_id, "shard_id": shard_id, "stage": stage, "attempt": 1}
            row |= {"prompt": clip.prompt, "seed": clip.seed, "extra": "{}", "negative_prompt": ""}
            for name, column in columns.items():
                column.append(row.get(name))
        arrays = [pa.array(columns[field.name], field.type) for field in MANIFEST_SCHEMA]
        tables[stage] = pa.Table.from_arrays(arrays, schema=MANIFEST_SCHEMA)
    return tables


def _write_measurements(
    storage: Storage, shard: ClipTable, shard_id: int, numbers: np.ndarray, videos: list[tuple[str, bytes]]
) -> None:
    """Write what `magicvideo measure` would have, with made-up values."""
    rng = np.random.default_rng(shard_id)
    hashes = [hashlib.sha256(data).hexdigest() for _, data in videos]
    values = {
        "clip_id": shard.ids(),
        "sha256": [hashes[number % len(hashes)] for number in numbers],
        "sharpness": rng.gamma(4, 2, len(shard)),
        "motion": rng.gamma(2, 0.01, len(shard)),
        "oracle_all": rng.random(len(shard)) < 0.8,
    }
    storage.write(measurements_key("vfi", shard_id), table_to_parquet(pa.table(values)))


def _write_sessions(storage: Storage, night_s: float, num_clips: int) -> None:
    for number in (1, 2):
        started_at = (_START + timedelta(seconds=(number - 1) * (0.6 * night_s + 20_000))).isoformat(timespec="seconds")
        found = FoundDone() if number == 1 else FoundDone(int(2.4 * num_clips), 16.0 * num_clips, 16.0 * num_clips)
        record = SessionRecord(number, "host", "", 1, "", "", started_at, ended_at=started_at, found_done=found)
        storage.write(session_key(number), record.to_bytes())


def _link(storage: Storage, clip_ids: list[str], media: Mapping[str, list[tuple[str, bytes]]]) -> None:
    """Put the artifacts of clips in their places, one file per scene and stage under many names."""
    for stage, scenes in media.items():
        first: dict[int, Path] = {}
        for number, clip_id in enumerate(clip_ids):
            suffix, data = scenes[number % len(scenes)]
            path = Path(storage.join(artifact_key(stage, clip_id, hashlib.sha256(data).hexdigest(), suffix)))
            if number < len(scenes):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
                first[number] = path
            else:
                os.link(first[number % len(scenes)], path)


def _forecast(num_clips: int) -> dict[str, Any]:
    hours = sum(_SECONDS.values()) * num_clips / 3600
    return {
        "source": "of runs/yesterday",
        "resources": {"CPU": 64.0, "GPU": 8.0},
        "seconds_per_clip": {stage: seconds * 1.1 for stage, seconds in _SECONDS.items()},
        "actors": dict.fromkeys(STAGES, 8),
        "bottleneck": "all GPUs",
        "clips_per_hour": num_clips / hours * 8,
        "wall_s": hours * 3600 / 8,
        "busy_gpu_hours": hours,
        "held_gpu_hours": hours,
        "storage_bytes": num_clips * 60_000,
        "cost": None,
        "price_per_gpu_hour": None,
    }
