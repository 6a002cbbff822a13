"""The commands on a run that is there: retry what failed in it, verify what it left, clean up what nothing needs."""

from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from typing import Any

import click

from flows.commands import DONE, INTERRUPTED, SOME_CLIPS_DID_NOT, Command, drive
from flows.options import json_option, stop_options, stop_words
from flows.terminal import CountedProgress, error_console, print_json
from magicvideo_core.manifest.audit import audit_run
from magicvideo_core.manifest.garbage import collect_garbage, find_garbage, is_worked_on
from magicvideo_core.storage import Storage
from tasks.selection import RetryRequest, resolve_retry

# Of each kind of garbage.
_MOST_KEYS = 20


@click.command(cls=Command, epilog="magicvideo retry runs/20261122-201500-1a2b --stage i2v --quarantined")
@click.argument("run_uri")
@click.option("--stage", metavar="STAGE", help="Only clips that broke in this stage.")
@click.option("--shard", type=int, metavar="N", help="Only clips of this shard.")
@click.option("--clip", "clips", multiple=True, metavar="ID", help="Only this clip, by its id or the prompt file's.")
@click.option("--quarantined", is_flag=True, help="Quarantined clips too.")
@click.option("--unfinished", is_flag=True, help="Clips that an interrupted run has not tried yet, too.")
@click.option("--max-attempts", type=click.IntRange(min=1), metavar="N", help="Leave what was tried so often.")
@stop_options
@json_option
def retry(run_uri: str, as_json: bool, clips: Sequence[str], **options: Any) -> int:
    """Run again what failed in a run, from the stage where it broke; succeeded clips are left alone.

    The run's own plan and configuration are used: no prompts are read. What has not been tried yet is left to generate,
    unless --unfinished asks for it.
    """
    request = RetryRequest(run_uri, clips=tuple(clips), **options)
    request.stop_conditions()
    run = resolve_retry(request)
    assert run.selection is not None
    if not run.selection.clip_ids:
        return _nothing_to_retry(run_uri, request, as_json)
    error_console().print(f"Run {run.uri}: {_counted(len(run.selection.clip_ids))} again.", markup=False)
    from flows.launch import run_retry

    summary = drive(partial(run_retry, run, request), retry_command(request))
    if summary is None:
        return INTERRUPTED
    if as_json:
        print_json(summary)
    else:
        again = summary["retried"]
        print(f"{again['succeeded']} of {_counted(again['num_clips'])} succeeded this time: {summary['run_uri']}")
        print(f"Report: {summary['report_uri'] or 'could not be written'}")
    return DONE if summary["succeeded"] else SOME_CLIPS_DID_NOT


@click.command(cls=Command, epilog="magicvideo verify runs/20261122-201500-1a2b")
@click.argument("run_uri")
@json_option
def verify(run_uri: str, as_json: bool) -> int:
    """Hash every artifact of a run again and compare manifests and storage: missing, different, extra, unfinished.

    Exit code 1 where anything is wrong. Reads only.
    """
    audit = audit_run(Storage(run_uri))
    if as_json:
        print_json(audit.to_json())
    else:
        for line in audit.lines():
            print(line)
        verdict = "as the manifests say" if audit.ok else f"problems: {len(audit.lines())}"
        print(f"{audit.num_artifacts} artifacts, {audit.num_bytes} bytes, {verdict}: {audit.run_uri}")
    return DONE if audit.ok else SOME_CLIPS_DID_NOT


@click.command(cls=Command, epilog="magicvideo gc runs/20261122-201500-1a2b --delete")
@click.argument("run_uri")
@click.option("--delete", is_flag=True, help="Delete it; without, only say what and how much.")
@json_option
def gc(run_uri: str, delete: bool, as_json: bool) -> int:
    """Find what nothing needs in a run: orphans of interrupted work, and what later attempts replaced.

    Reads only, unless --delete is given; that holds the run as a driver does, and is refused while one works on it.
    """
    storage = Storage(run_uri)
    if delete:
        with closing(CountedProgress("deleting")) as progress:
            found = collect_garbage(storage, progress)
    else:
        found = find_garbage(storage)
    if as_json:
        print_json({"run_uri": run_uri, "deleted": delete, "kinds": found.by_kind(), "kept_back": found.kept_back})
        return DONE
    for kind, sizes in found.by_kind().items():
        for key in list(sizes)[:_MOST_KEYS]:
            print(f"{kind}: {key}")
        if len(sizes) > _MOST_KEYS:
            print(f"{kind}: and {len(sizes) - _MOST_KEYS} more (all of them by --json)")
    for line in found.kept_back[:_MOST_KEYS]:
        print(f"left alone: {line}")
    if not delete and is_worked_on(storage):
        print("A driver may be working on this run: what it has in flight looks like an orphan.")
    num_objects, size_bytes = len(found.keys()), sum(each["size_bytes"] for each in found.counts().values())
    print(f"{num_objects} objects, {size_bytes} bytes {'deleted' if delete else 'can go (--delete)'}: {storage.uri}")
    return DONE


def retry_command(request: RetryRequest) -> list[str]:
    """Return the words of the command that continues a retry."""
    words = ["magicvideo", "retry", request.uri]
    words += [] if request.stage is None else ["--stage", request.stage]
    words += [] if request.shard is None else ["--shard", str(request.shard)]
    for clip in request.clips:
        words += ["--clip", clip]
    words += ["--quarantined"] if request.quarantined else []
    words += ["--unfinished"] if request.unfinished else []
    words += [] if request.max_attempts is None else ["--max-attempts", str(request.max_attempts)]
    return words + stop_words(request.max_gpu_hours, request.deadline, request.keep_warm)


def _nothing_to_retry(run_uri: str, request: RetryRequest, as_json: bool) -> int:
    from tasks.status import run_status

    status = run_status(Storage(run_uri))
    succeeded = all(stage["all_succeeded"] for stage in status["stages"].values())
    if as_json:
        print_json({**status, "succeeded": succeeded, "retried": {"num_clips": 0, "succeeded": 0}})
        return DONE if succeeded else SOME_CLIPS_DID_NOT
    counts = Counter[str]()
    for stage in status["stages"].values():
        counts.update({name: stage[name] for name in ("failed", "quarantined", "pending")})
    hints = []
    if counts["failed"]:
        hints.append(f"{_counted(counts['failed'])} failed outside of this selection")
    if counts["quarantined"]:
        given = "outside of this selection" if request.quarantined else "(--quarantined retries them)"
        hints.append(f"{_counted(counts['quarantined'])} quarantined {given}")
    if counts["pending"]:
        hints.append(f"{counts['pending']} (clip, stage) pairs not tried yet (--unfinished, or generate)")
    why = "every clip succeeded" if succeeded else "; ".join(hints) or "every clip has its row"
    print(f"Nothing to retry: {why}: {status['run_uri']}")
    return DONE if succeeded else SOME_CLIPS_DID_NOT


def _counted(num_clips: int) -> str:
    return "1 clip" if num_clips == 1 else f"{num_clips} clips"
