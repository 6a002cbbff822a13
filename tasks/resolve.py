"""From what a person asks for to a run that can start: every check that needs no Prefect, no Ray and writes nothing."""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from magicvideo_core.clips import Clip, ClipTable, Shards
from magicvideo_core.config import RunConfig, load_config
from magicvideo_core.config.weights import EMBEDDED, references
from magicvideo_core.errors import PromptError, RunError, UnreadableError
from magicvideo_core.ids import new_run_id
from magicvideo_core.manifest.layout import check_run_id, run_json_key
from magicvideo_core.manifest.plan import read_shards
from magicvideo_core.manifest.run_record import RunRecord, new_run_record, read_run_json
from magicvideo_core.manifest.schema import ManifestRow
from magicvideo_core.moving_shapes.captions import unknown_words_of
from magicvideo_core.prompt_files import PromptFiles
from magicvideo_core.prompts import read_prompts
from magicvideo_core.stages.given import is_given
from magicvideo_core.stages.registry import recipe_hashes
from magicvideo_core.storage import Storage, check_writable
from tasks.continuation import check_remains, check_reuse, check_unchanged
from tasks.costs import Costs, read_costs
from tasks.stop_conditions import StopConditions, parse_stop_conditions

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunRequest:
    """What the command line or a deployment asks for; plain values, so that it can travel as flow parameters."""

    prompts: str
    output: str
    preset: str = "tiny"
    config_file: str | None = None
    overrides: tuple[str, ...] = ()
    run_id: str | None = None
    shard_size: int | None = None
    stages: str | None = None
    max_gpu_hours: float | None = None
    deadline: str | None = None
    reuse: str | None = None
    timings: str | None = None
    price_per_gpu_hour: float | None = None
    keep_warm: str | None = None

    def stop_conditions(self) -> StopConditions:
        """Return when to start no more work, durations counted from now. Raises InputError."""
        return parse_stop_conditions(self.max_gpu_hours, self.deadline, self.keep_warm)

    def run_uri(self) -> str:
        """Return where the run lies, or will lie; "" while it has no id."""
        return Storage(f"{self.output.rstrip('/')}/{self.run_id}").uri if self.run_id is not None else ""

    def all_overrides(self) -> list[str]:
        """Return the overrides with the options that have a name of their own added."""
        named = [f"shard_size={self.shard_size}"] if self.shard_size is not None else []
        named += [f"stages={self.stages}"] if self.stages is not None else []
        return [*self.overrides, *named]


@dataclass(frozen=True)
class Selection:
    """The part of a run that a retry works on: its clips, and by (stage, clip id) the attempts that do not count."""

    clip_ids: frozenset[str]
    reopened: Mapping[tuple[str, str], int]

    def reopens(self, row: ManifestRow) -> bool:
        """Tell whether a row is to be made again; the one that comes of it is not."""
        return row.attempt <= self.reopened.get((row.stage, row.clip_id), 0)


@dataclass(frozen=True)
class ResolvedRun:
    """A run that can start or continue: checked, and complete in everything that decides its output.

    `unplanned` are the shards without a readable plan in storage. A `selection` limits the work to some clips.
    `reuse` is the URI of a run whose finished stages may be taken over. `costs` are what its pools are sized by.
    """

    storage: Storage
    record: RunRecord
    shards: Shards
    is_new: bool
    unplanned: tuple[int, ...] = ()
    selection: Selection | None = None
    reuse: str | None = None
    costs: Costs | None = None
    price_per_gpu_hour: float | None = None

    @property
    def run_id(self) -> str:
        """The run's id, also the last part of its URI."""
        return self.record.run_id

    @property
    def config(self) -> RunConfig:
        """The resolved configuration."""
        return self.record.config

    @property
    def uri(self) -> str:
        """Where the run lies."""
        return self.storage.uri

    @property
    def num_clips(self) -> int:
        """How many clips the run has."""
        return self.record.num_clips

    @property
    def num_clips_to_work_on(self) -> int:
        """How many clips the run has, or its selection."""
        return self.num_clips if self.selection is None else len(self.selection.clip_ids)

    @property
    def shard_ids(self) -> list[int]:
        """The ids of the shards to work on."""
        if self.selection is None:
            return list(range(len(self.shards)))
        selected = self.selection.clip_ids
        return [shard_id for shard_id, clips in enumerate(self.shards) if not selected.isdisjoint(clips.ids())]

    def clips_of(self, shard_id: int) -> list[Clip]:
        """Return the clips of a shard to work on, in their planned order."""
        return [
            clip for clip in self.shards[shard_id] if self.selection is None or clip.clip_id in self.selection.clip_ids
        ]


def resolve_run(request: RunRequest, *, probe_output: bool = True) -> ResolvedRun:
    """Check a request and return its run, new or continued. Raises an InputError in one sentence.

    Writes nothing but, with `probe_output`, one empty object that is deleted at once: only a write tells.
    """
    config = load_config(request.preset, request.config_file, request.all_overrides())
    run_id = check_run_id(request.run_id) if request.run_id is not None else new_run_id()
    prompts = PromptFiles(request.prompts)
    hashes = recipe_hashes(config)
    costs = read_costs(request.timings, config) if request.timings is not None else None
    storage = Storage(f"{request.output.rstrip('/')}/{run_id}")
    if probe_output:
        check_writable(storage.uri)
    if request.reuse is not None:
        check_reuse(request.reuse, storage, hashes)
    record = find_record(storage)
    is_new = record is None
    stored = read_shards(storage)
    planned = _planned_clips(record, stored, prompts.hash())
    clips = read_prompts(prompts, base_seed=config.seed) if planned is None else planned
    _check_starts(clips, config)
    shards = Shards.cut(clips, config.shard_size)
    if record is None:
        record = new_run_record(run_id, config, hashes, request.prompts, shards, prompts.hash())
    else:
        check_unchanged(storage, record, config, clips, request.prompts)
    if is_new:
        check_remains(storage, stored, record, clips)
    unplanned = tuple(shard_id for shard_id in range(len(shards)) if shard_id not in stored)
    # The first writing of the plan may have been cut short: what is there is kept, the rest follows from the clips.
    if planned is None and any(stored[i] != shards[i] for i in stored if i < len(shards)):
        shards = Shards.of(stored.get(shard_id, shard) for shard_id, shard in enumerate(shards))
        if shards.clips.hash() != record.clips_hash:
            raise RunError(
                f"Run {record.run_id} at {storage.uri} has lost a part of its plan, and {request.prompts} has its rows "
                "in another order or shard size than then: give the first ones, or another --run-id."
            )
    return ResolvedRun(
        storage,
        record,
        shards,
        is_new=is_new,
        unplanned=unplanned,
        reuse=request.reuse,
        costs=costs,
        price_per_gpu_hour=request.price_per_gpu_hour,
    )


def find_record(storage: Storage) -> RunRecord | None:
    """Return the record of the run that is there; None where there is none, or a torn one, which is written again.

    Raises RunError where it is of another version.
    """
    if not storage.exists(run_json_key()):
        return None
    try:
        return read_run_json(storage)
    except UnreadableError as error:
        logger.warning("the run's record is written again: %s", error)
        return None


def _planned_clips(record: RunRecord | None, stored: Mapping[int, ClipTable], prompts_hash: str) -> ClipTable | None:
    """Return the clips of the plan where it is whole and of these very prompts; None where they have to be derived."""
    if record is None or record.prompts_hash != prompts_hash or list(stored) != list(range(record.num_shards)):
        return None
    clips = ClipTable.concat(list(stored.values()))
    return clips if clips.hash() == record.clips_hash else None


def read_whole_plan(storage: Storage, record: RunRecord) -> Shards:
    """Return the clips of every shard. Raises RunError where a part of the plan is missing."""
    shards = read_shards(storage)
    for shard_id in range(record.num_shards):
        if shard_id not in shards:
            raise RunError(
                f"Run {record.run_id} at {storage.uri} has no readable plan of shard {shard_id}: "
                "continue it with `magicvideo generate` and its prompts, which writes it again."
            )
    return Shards.of(shards[shard_id] for shard_id in range(record.num_shards))


def words_outside_the_world(prompts: Iterable[str], config: RunConfig) -> list[str]:
    """Return the words that the embedded weights have never seen, where the run uses them for text."""
    stages = [config.stage(name) for name in config.stages if name != "vfi"]
    if not any(stage.backend != "fake" and EMBEDDED in references(stage).values() for stage in stages):
        return []
    return unknown_words_of(prompts)


def _check_starts(clips: ClipTable, config: RunConfig) -> None:
    """Every clip needs what the stages before the first one would have made."""
    first = config.stages[0]
    if first == "vfi":
        raise PromptError("stages='vfi' has no frames to start from: begin with v2v, or use `magicvideo interpolate`.")
    before = {"i2v": "t2i", "v2v": "i2v"}.get(first)
    if before is None:
        return
    column = "image" if before == "t2i" else "video"
    for clip in clips:
        if not is_given(clip, before):
            raise PromptError(
                f"Prompt {clip.prompt!r} (clip {clip.clip_id}) has no {column!r}, which a run that begins with {first} "
                "starts from: add it, or begin with an earlier stage."
            )
