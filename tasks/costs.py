"""What a clip costs in each stage: said by a person, measured by an earlier run, or by a calibration slice."""

import math
import re
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING

from magicvideo_core.config import RunConfig
from magicvideo_core.errors import InputError, RunError
from magicvideo_core.ids import READS
from magicvideo_core.manifest.run_record import read_run_json
from magicvideo_core.manifest.schema import ManifestRow
from magicvideo_core.manifest.tally import Tally, tally_run
from magicvideo_core.storage import Storage, StoredObject

if TYPE_CHECKING:
    from tasks.resolve import ResolvedRun

_SECONDS = re.compile(r"([a-z0-9]+)=([0-9.]+)")


@dataclass(frozen=True, slots=True)
class StageCost:
    """What one clip takes in one stage.

    `seconds` of one actor, reading and storing included; `gpu_s` and `cpu_s` of whole devices (None: not measured);
    `size_bytes` of its artifact (None: not known); `load_s` before an actor's first clip; `gpu_memory_gib` that it keeps.
    """

    seconds: float
    gpu_s: float | None = None
    cpu_s: float | None = None
    size_bytes: float | None = None
    load_s: float = 0.0
    gpu_memory_gib: float = 0.0


@dataclass(frozen=True, slots=True)
class Costs:
    """The costs of every stage of a run, and the words that say where they come from."""

    source: str
    stages: Mapping[str, StageCost]

    def as_option(self) -> str:
        """Return the seconds as `--timings` takes them."""
        return ",".join(f"{stage}={cost.seconds:.3g}" for stage, cost in self.stages.items())


def read_costs(timings: str, config: RunConfig) -> Costs:
    """Return the costs that `--timings` names: `t2i=1.3,...` in seconds, or the URI of a run that has measured them.

    Raises InputError in one sentence where a stage has none.
    """
    if "=" in timings and "://" not in timings:
        costs = Costs("as given", {stage: StageCost(seconds) for stage, seconds in _parse(timings).items()})
    else:
        storage = Storage(timings)
        record = read_run_json(storage)
        tally = tally_run(storage, record.config.stages)
        costs = Costs(f"as in {storage.uri}", costs_of(tally, record.config.stages))
    missing = [stage for stage in config.stages if stage not in costs.stages]
    if missing:
        raise InputError(
            f"--timings {timings} says nothing of {', '.join(missing)}: name a run in which each stage has succeeded, "
            f"or seconds per clip such as {','.join(f'{stage}=1.5' for stage in config.stages)}."
        )
    return replace(costs, stages={stage: costs.stages[stage] for stage in config.stages})


def costs_of(tally: Tally, stages: Sequence[str]) -> dict[str, StageCost]:
    """Return what clips took in each stage that has made one; failed ones add their time, for they will fail again."""
    costs = {}
    for stage in stages:
        done, tried = tally.select(stage, status="succeeded"), tally.select(stage)
        if done.num_clips:
            size_bytes, seconds = done.size_bytes / done.num_clips, tried.duration_s / done.num_clips
            costs[stage] = StageCost(seconds, tried.gpu_s / done.num_clips, None, size_bytes)
    return costs


def calibrate(run: "ResolvedRun", num_clips: int) -> Costs:
    """Take the first clips of a run through its stages in this process, alone on the machine; keeps nothing.

    The first batch of each stage warms it up and does not count, where more than one follows. Raises RunError where a
    clip fails.
    """
    from tasks.pools.actor import StageActor
    from tasks.pools.clip_work import ClipWork, StageJob

    config = run.config
    clips = list(islice(run.shards.clips, num_clips))
    stored: dict[str, dict[str, StoredObject]] = {clip.clip_id: {} for clip in clips}
    costs = {}
    with tempfile.TemporaryDirectory() as folder:
        for stage in config.stages:
            job = StageJob(stage, config, Storage(folder), run.run_id, run.record.recipe_hashes[stage])
            actor = StageActor(job)
            started_s = time.monotonic()
            actor.load()
            load_s = time.monotonic() - started_s
            rows: list[ManifestRow] = []
            cpu_s: list[float] = []
            size = config.stage(stage).pool.batch_size
            for start in range(0, len(clips), size):
                upstream = [name for name in READS[stage] if name in config.stages]
                works = [
                    ClipWork(clip, 0, 1, {name: stored[clip.clip_id][name] for name in upstream})
                    for clip in clips[start : start + size]
                ]
                cpu_started_s = time.process_time()
                for result in actor.run(works):
                    if not isinstance(result, ManifestRow):
                        raise RunError(
                            f"The calibration stopped: clip {result.clip_id} failed in stage {stage} with "
                            f"{result.reason.error_type}: {result.reason.error_message}"
                        )
                    rows.append(result)
                    assert result.artifact_uri and result.sha256 and result.size_bytes is not None
                    found = StoredObject(result.artifact_uri, result.sha256, result.size_bytes)
                    stored[result.clip_id][stage] = found
                cpu_s += [(time.process_time() - cpu_started_s) / len(works)] * len(works)
            actor.close()
            warm = size if len(rows) > size else 0
            costs[stage] = StageCost(
                seconds=_mean([row.duration_s for row in rows[warm:]]),
                gpu_s=_mean([row.gpu_s for row in rows[warm:]]),
                cpu_s=_mean(cpu_s[warm:]),
                size_bytes=_mean([row.size_bytes for row in rows]),
                load_s=load_s,
                gpu_memory_gib=_gpu_memory_gib(actor.device),
            )
    return Costs(f"measured with {len(clips)} clips in this process", costs)


def _gpu_memory_gib(device: str) -> float:
    """Return the most that this process has held of its GPU since it was last asked, and begin anew."""
    if not device.startswith("cuda"):
        return 0.0
    import torch

    most = torch.cuda.max_memory_reserved() / 2**30
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    return most


def _mean(values: Sequence[float | None]) -> float:
    return math.fsum(value or 0.0 for value in values) / len(values)


def _parse(timings: str) -> dict[str, float]:
    found = {}
    for part in timings.split(","):
        match = _SECONDS.fullmatch(part.strip())
        if match is None or match[1] not in READS or not _is_positive(match[2]):
            raise InputError(
                f"--timings {timings}: {part.strip()!r} is not of the form STAGE=SECONDS; write t2i=1.3,i2v=6.8,..., or the "
                "URI of a run."
            )
        found[match[1]] = float(match[2])
    return found


def _is_positive(text: str) -> bool:
    try:
        return 0 < float(text) < math.inf
    except ValueError:
        return False
