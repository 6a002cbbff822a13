"""The load of the throughput benchmark: what every system does for a clip in a stage, and what its records come to.

Each system makes the same frames with the fake backend, encodes them alike, reads what the stage before has stored, and
leaves one record per (clip, stage). How durable that is differs: the table of `throughput.py` says so.
"""

import json
import os
import statistics
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

from magicvideo_core.config import RunConfig, load_config
from magicvideo_core.ids import STAGES
from magicvideo_core.local_files import write_file
from magicvideo_core.manifest.table import read_manifests
from magicvideo_core.media import decode_image, decode_video, encode_lossless, encode_mp4, encode_png, stored_shape
from magicvideo_core.prompts import clip_of_prompt
from magicvideo_core.stages.base import ARTIFACT_SUFFIXES, Stage, StageItem
from magicvideo_core.stages.fake import FakeStage
from magicvideo_core.storage import Storage

# What a clip takes in each stage, in proportion.
PROPORTIONS = {"t2i": 1.3, "i2v": 6.8, "v2v": 18.5, "vfi": 0.5}
# Ends of (clip, stage) that are looked at together: of several that go in one call, the ends bunch.
SLICE = 40
# 16x16 pixels, 4 keyframes, 10 frames at the end: what is computed and encoded takes some milliseconds a clip.
SMALL = (
    *(f"{stage}.{side}=16" for stage in ("t2i", "i2v", "v2v") for side in ("height", "width")),
    *(f"{stage}.num_frames=4" for stage in ("i2v", "v2v")),
)


@dataclass(frozen=True)
class Load:
    """How many clips, what a clip sleeps in each stage, and what there is to run it on.

    Without GPUs each stage has one actor that takes a tenth of a core. Frames are `SMALL`, or of the embedded family's sizes.
    """

    num_clips: int
    sleeps_s: dict[str, float]
    load_s: float
    num_gpus: int
    folder: str
    full_size: bool = False

    @property
    def overrides(self) -> tuple[str, ...]:
        """The configuration as words of `--set`."""
        times = [f"{stage}.fake.sleep_s={self.sleeps_s[stage]:.5f}" for stage in STAGES]
        loads = [f"{stage}.fake.load_sleep_s={self.load_s}" for stage in STAGES]
        cpus = [f"{stage}.pool.num_cpus=0.1" for stage in STAGES]
        gpus = [f"{s}.pool.{k}" for s in STAGES for k in ("num_gpus=1", f"max_actors={self.num_gpus}")]
        fake = [f"{stage}.backend=fake" for stage in STAGES]
        sizes = () if self.full_size else SMALL
        return (*fake, *sizes, *times, *loads, *cpus, *(gpus if self.num_gpus else ()))

    @property
    def config(self) -> RunConfig:
        """The configuration that the overrides make."""
        return load_config(overrides=self.overrides)

    @property
    def ideal_s(self) -> float:
        """What it takes where every device is always busy."""
        return sum(self.sleeps_s.values()) * self.num_clips / max(self.num_gpus, 1)

    @property
    def prompts(self) -> list[str]:
        """The prompts, each once."""
        return [f"fake clip {number}" for number in range(self.num_clips)]


@dataclass(frozen=True)
class Record:
    """That a clip has finished a stage: when it was begun (seconds since 1970), how long it took, and in which process."""

    stage: str
    clip_id: str
    actor: str
    started_s: float
    duration_s: float


class Worker:
    """One stage in one process, as a person would write it: plain files, nothing checked, nothing tried again.

    A `durable` one checks what it has encoded and leaves what the pipeline leaves: whole files that outlive a power cut.
    """

    def __init__(self, stage: str, load: Load, *, durable: bool = False) -> None:
        self._stage, self._folder, self._durable = stage, Path(load.folder), durable
        self.model: Stage = FakeStage(stage, load.config)
        self.model.load("cpu")
        for folder in ("artifacts", "records"):
            (self._folder / folder / stage).mkdir(parents=True, exist_ok=True)

    def run(self, prompt: str) -> str:
        """Take a prompt's clip through the stage: artifact, then record; returns the prompt."""
        started_s, clip = time.time(), clip_of_prompt(prompt, 0)
        image = frames = None
        if self._stage in ("i2v", "v2v"):
            image = decode_image(self._artifact("t2i", clip.clip_id).read_bytes())
        if self._stage in ("v2v", "vfi"):
            before = "i2v" if self._stage == "v2v" else "v2v"
            frames = decode_video(self._artifact(before, clip.clip_id).read_bytes()).frames_THWC_u8
        outcome = self.model.process([StageItem(clip, image, frames)])[0]
        made = outcome.frames_THWC_u8
        assert made is not None
        if self._stage == "t2i":
            data = encode_png(made[0])
        else:
            data = (encode_mp4 if self._stage == "vfi" else encode_lossless)(made, outcome.fps)
        if self._durable:
            assert stored_shape(data) == made.shape
        self._write(self._artifact(self._stage, clip.clip_id), data)
        record = Record(self._stage, clip.clip_id, str(os.getpid()), started_s, time.time() - started_s)
        target = self._folder / "records" / self._stage / f"{clip.clip_id}.json"
        self._write(target, json.dumps(asdict(record)).encode())
        return prompt

    def _write(self, path: Path, data: bytes) -> None:
        if self._durable:
            write_file(path, data)
        else:
            path.write_bytes(data)

    def _artifact(self, stage: str, clip_id: str) -> Path:
        return self._folder / "artifacts" / stage / f"{clip_id}{ARTIFACT_SUFFIXES[stage]}"


def read_records(folder: Path) -> list[Record]:
    """Return what the workers of a system have recorded."""
    return [Record(**json.loads(path.read_text())) for path in (folder / "records").glob("*/*.json")]


def pipeline_records(run: Path) -> list[Record]:
    """Return the same of a run of the pipeline, from its manifests."""
    found = []
    for row in read_manifests(Storage(run)):
        assert row.status == "succeeded" and row.started_at is not None and row.duration_s is not None
        name = f"{row.stage} {row.actor_id}"
        found.append(Record(row.stage, row.clip_id, name, row.started_at.timestamp(), row.duration_s))
    return found


def figures(load: Load, records: Iterable[Record]) -> dict[str, float]:
    """Return what the records of a complete run come to.

    `clips_per_s` from the first clip's begin to the last one's end; `mean_ms` the same per (clip, stage). For `median_ms`
    the ends of all (clip, stage) are cut, in their order, into slices of 40: what a slice takes for each of its own, the
    median slice. `busy` is the share of the devices' time that stages slept.
    """
    done = list(records)
    assert len({(record.stage, record.clip_id) for record in done}) == len(done) == load.num_clips * len(STAGES)
    ends_s = sorted(record.started_s + record.duration_s for record in done)
    first_s = min(record.started_s for record in done)
    span_s = ends_s[-1] - first_s
    slices_s = [after - before for before, after in pairwise(ends_s[::SLICE])] or [span_s]
    return {
        "first_s": first_s,
        "last_s": ends_s[-1],
        "clips_per_s": load.num_clips / span_s,
        "mean_ms": 1000 * span_s / len(done),
        "median_ms": 1000 * statistics.median(slices_s) / SLICE,
        "busy": load.ideal_s / span_s,
    }
