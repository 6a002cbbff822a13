"""What may be continued or taken over: refusals, each in one sentence, of what is another run than was asked for."""

from collections.abc import Mapping

from magicvideo_core.clips import ClipTable
from magicvideo_core.config import RunConfig, diff_configs
from magicvideo_core.errors import RunError
from magicvideo_core.ids import STAGES
from magicvideo_core.manifest.layout import run_json_key
from magicvideo_core.manifest.plan import read_shards
from magicvideo_core.manifest.run_record import RunRecord, read_run_json
from magicvideo_core.manifest.scan import scan_run
from magicvideo_core.stages.registry import recipe_hashes
from magicvideo_core.storage import Storage


def check_weights(storage: Storage, record: RunRecord, config: RunConfig) -> None:
    """Raise RunError where a run's stages would not make any more what they made.

    A setting that a later version added changes nothing: its default is what the run was made with.
    """
    hashes, given = recipe_hashes(config), recipe_hashes(record.config, only_given=True)
    changed = [stage for stage in config.stages if record.recipe_hashes.get(stage) not in (hashes[stage], given[stage])]
    if changed:
        raise RunError(
            f"Run {record.run_id} at {storage.uri} was started with other weights for {changed[0]}.weights: "
            "restore them, or give another --run-id."
        )


def check_remains(storage: Storage, stored: Mapping[int, ClipTable], record: RunRecord, clips: ClipTable) -> None:
    """Refuse what lies where a run is to begin unless that run would have made it: its record was lost, or torn."""
    differing = set()
    for shard in scan_run(storage, STAGES, ["recipe_hash"], keep_stale_skips=True):
        for stage, rows in shard.stages.items():
            if rows["recipe_hash"].unique().to_pylist() != [record.recipe_hashes.get(stage)]:
                differing.add(stage)
    if differing or clips.num_lacking(ClipTable.concat(list(stored.values()))):
        made = f"other settings or weights of {', '.join(sorted(differing))}" if differing else "other prompts"
        raise RunError(
            f"Run {record.run_id} at {storage.uri} has no readable {run_json_key()}, and what lies there comes from "
            f"{made}: give the prompts and configuration that it was started with, or another --run-id."
        )


def check_unchanged(storage: Storage, record: RunRecord, config: RunConfig, clips: ClipTable, prompts: str) -> None:
    """Refuse to continue as another run: one run id stands for one configuration and one prompt set."""
    differing = diff_configs(record.config, config)
    if differing:
        raise RunError(
            f"Run {record.run_id} at {storage.uri} was started with other values of {', '.join(differing)}: "
            "give the same configuration, or another --run-id."
        )
    check_weights(storage, record, config)
    if clips.hash() != record.clips_hash:
        raise RunError(
            f"Run {record.run_id} at {storage.uri} was started with another prompt set than {prompts} "
            f"({_clip_changes(read_shards(storage), clips)}): give the same prompts, or another --run-id."
        )


def check_reuse(uri: str, storage: Storage, hashes: Mapping[str, str]) -> None:
    """Raise RunError where `uri` is no other run, or one of which nothing may be taken over."""
    source = Storage(uri)
    if source == storage:
        raise RunError(f"--reuse {uri} is the run itself: name another run.")
    record = read_run_json(source)
    if not any(record.recipe_hashes.get(stage) == recipe for stage, recipe in hashes.items()):
        raise RunError(
            f"Nothing of run {record.run_id} at {source.uri} can be reused: its recipe differs from "
            f"{next(iter(hashes))} on (settings or weights); give the same ones, or leave --reuse out."
        )


def _clip_changes(shards: Mapping[int, ClipTable], clips: ClipTable) -> str:
    planned = ClipTable.concat(list(shards.values()))
    return f"{planned.num_lacking(clips)} clips new, {clips.num_lacking(planned)} gone"
