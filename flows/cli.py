"""The command line, `magicvideo`: one function per command, and what every error exits with.

Exit codes: 0 done; 1 the work finished but some clips did not; 2 the input or configuration is wrong (one sentence on
stderr, nothing written); 3 interrupted, and the message says with which command to go on. What a command computes
with is imported inside it, so that `--help` and wrong input answer at once.
"""

import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import click

from flows.commands import DONE, INTERRUPTED, SOME_CLIPS_DID_NOT, WRONG_INPUT, Command, drive
from flows.dataset_commands import export, measure
from flows.evaluation import ablate, evaluate
from flows.finished_runs import gc, retry, verify
from flows.one_video import encoder_for, split_uri
from flows.options import (
    config_options,
    forecast_options,
    generate_command,
    json_option,
    machine_options,
    make_request,
    reuse_option,
    run_options,
    stop_options,
)
from flows.terminal import (
    error_console,
    forecast_table,
    log_to_stderr,
    plan_table,
    print_error,
    print_json,
    print_tables,
    stage_table,
)
from flows.training import train
from flows.warm_pools import pools
from magicvideo_core.config import RunConfig, load_config
from magicvideo_core.errors import ClipError, InputError, MagicVideoError
from magicvideo_core.ids import default_seed
from magicvideo_core.prompts import clip_of_prompt
from magicvideo_core.storage import Storage, check_writable
from tasks.resolve import resolve_run, words_outside_the_world


@click.group()
@click.version_option(package_name="magicvideo")
def cli() -> None:
    """Prompts in, videos and a complete record out."""


@cli.command(cls=Command, epilog="magicvideo generate prompts.txt --output runs --preset tiny")
@click.argument("prompts")
@click.option("--output", required=True, metavar="URI", help="Where runs lie: a folder or any fsspec URL.")
@run_options
@stop_options
@reuse_option
@forecast_options
@json_option
def generate(prompts: str, output: str, as_json: bool, **options: Any) -> int:
    """Turn PROMPTS (.txt, .csv, .jsonl, .parquet; path, URL, glob or -) into videos.

    The same command with the same --run-id continues an interrupted run.
    """
    request = make_request(prompts, output, options)
    request.stop_conditions()
    run = resolve_run(request)
    _warn_of_unknown_words(run.shards.clips.distinct("prompt"), run.config)
    request = replace(request, run_id=run.run_id)
    error_console().print(f"Run {run.uri}: {run.num_clips} clips in {len(run.shards)} shards.", markup=False)
    from flows.launch import run_generate

    summary = drive(partial(run_generate, run, request), generate_command(request, run.run_id))
    if summary is None:
        return INTERRUPTED
    if as_json:
        print_json(summary)
    else:
        last = summary["stages"][run.config.stages[-1]]
        print(f"{last['succeeded']} of {summary['num_clips']} clips succeeded in every stage: {summary['run_uri']}")
        print(f"Report: {summary['report_uri'] or 'could not be written'}")
    return DONE if summary["succeeded"] else SOME_CLIPS_DID_NOT


cli.add_command(evaluate)
cli.add_command(ablate)
cli.add_command(retry)
cli.add_command(verify)
cli.add_command(gc)
cli.add_command(pools)
cli.add_command(measure)
cli.add_command(export)


@cli.command(cls=Command, epilog="magicvideo plan prompts.txt --preset magicvideo2")
@click.argument("prompts")
@click.option("--output", default="runs", metavar="URI", help="Where the run would lie, to see what is left of it.")
@run_options
@reuse_option
@forecast_options
@machine_options
@json_option
def plan(
    prompts: str,
    output: str,
    as_json: bool,
    calibrate: int | None,
    gpus: int | None,
    cpus: int | None,
    gpu_memory_gib: float | None,
    **options: Any,
) -> int:
    """Say what `generate` would do with PROMPTS: clips, shards, pools, and what it would take. Writes nothing."""
    from tasks.costs import calibrate as measure
    from tasks.forecast import Machines, resources_here
    from tasks.status import describe_plan

    if calibrate is not None and options["timings"] is not None:
        raise InputError("--calibrate measures what --timings says: give one of the two.")
    run = resolve_run(make_request(prompts, output, options), probe_output=False)
    _warn_of_unknown_words(run.shards.clips.distinct("prompt"), run.config)
    given = {name: float(number) for name, number in (("GPU", gpus), ("CPU", cpus)) if number is not None}
    machines = Machines({**resources_here(), **given}, options["price_per_gpu_hour"], gpu_memory_gib)
    description = describe_plan(run, machines, None if calibrate is None else measure(run, calibrate))
    if as_json:
        print_json(description)
        return DONE
    print(f"{description['num_clips']} clips in {description['num_shards']} shards of {description['shard_size']}.")
    print_tables(plan_table(description))
    if description["done"]:
        print(f"Continues {run.uri}; done so far:")
        print_tables(stage_table(description["done"]))
    if description["reusable"]:
        counts = ", ".join(f"{stage} {count}" for stage, count in description["reusable"].items())
        print(f"Clips that {options['reuse']} has done by the same recipe: {counts}.")
    if description["forecast"]:
        print_tables(forecast_table(description["forecast"]))
        if better := description["forecast"]["better"]:
            words = " ".join(f"--set {setting}" for setting in better["settings"])
            print(f"{better['clips_per_hour']:g} clips an hour on these GPUs with: {words}")
        print(f"Give generate these times, to size its pools by them: --timings {description['timings']}")
    else:
        print(f"There is {description['forecast_note']}.")
    return DONE


@cli.command(cls=Command, epilog="magicvideo status runs/20261122-201500-1a2b")
@click.argument("run_uri")
@json_option
def status(run_uri: str, as_json: bool) -> int:
    """Show how far a run is, stage by stage, from what is durable in storage."""
    from tasks.status import run_status

    found = run_status(Storage(run_uri))
    if as_json:
        print_json(found)
        return DONE
    print_tables(stage_table(found["stages"]))
    if found["forecast"] or found["actual"]["clips_per_hour"]:
        print_tables(forecast_table(found["forecast"], found["actual"]))
    left = f"{found['left']} (clip, stage) pairs left" if found["left"] else "finished"
    print(f"{found['num_clips']} clips in {found['num_shards']} shards, {left}: {found['run_uri']}")
    return DONE


@cli.command(cls=Command, epilog="magicvideo report runs/20261122-201500-1a2b --strips 10000")
@click.argument("run_uri")
@click.option(
    "--strips",
    type=click.IntRange(min=0),
    default=200,
    show_default=True,
    metavar="N",
    help="Clips that get frames of all their stages; what an earlier report has made is kept.",
)
@json_option
def report(run_uri: str, strips: int, as_json: bool) -> int:
    """Write the HTML page of a run, finished or not."""
    from magicvideo_core.report import write_report

    report_uri = write_report(Storage(run_uri), most_strips=strips, strips_limit_s=math.inf)
    print_json({"report_uri": report_uri}) if as_json else print(report_uri)
    return DONE


@cli.command(
    cls=Command, epilog='magicvideo sample "a big red circle moving right on a navy background" -o out.mp4 --seed 7'
)
@click.argument("prompt")
@click.option("-o", "--output", required=True, metavar="FILE", help=".mp4 or .mkv; .png for one frame (stages=t2i).")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), help="Default: the seed that a run would give the prompt.")
@config_options
def sample(prompt: str, output: str, seed: int | None, preset: str, config_file: str, overrides: Sequence[str]) -> int:
    """Make one clip of PROMPT in this process, without Prefect or Ray."""
    config = load_config(preset, config_file, overrides)
    clip = clip_of_prompt(prompt, default_seed(prompt, 0, config.seed) if seed is None else seed)
    encode = encoder_for(output, config)
    storage, name = split_uri(output)
    check_writable(storage.uri)
    _warn_of_unknown_words([clip.prompt], config)
    from magicvideo_core.sample import sample_clip

    console = error_console()
    try:
        frames = sample_clip(clip.prompt, config, clip.seed, on_stage=lambda stage: console.print(f"{stage} ..."))
        data = encode(frames[config.stages[-1]])
    except ClipError as error:
        print_error(f"The clip was not made: {type(error).__name__}: {error}")
        return SOME_CLIPS_DID_NOT
    print(storage.write(name, data).uri)
    return DONE


@cli.command(cls=Command, epilog="magicvideo interpolate clip.mp4 -o smooth.mp4 --factor 3")
@click.argument("inputs", nargs=-1, required=True, metavar="VIDEO_OR_FRAMES...")
@click.option("-o", "--output", required=True, metavar="OUT", help="A video (.mp4, .mkv), or a folder for PNG frames.")
@click.option("--factor", type=int, default=3, show_default=True, help="Frames out per frame in, ends shared.")
@config_options
def interpolate(
    inputs: Sequence[str], output: str, factor: int, preset: str, config_file: str | None, overrides: Sequence[str]
) -> int:
    """Put frames between those of an existing video, or of a series of images."""
    config = load_config(preset, config_file, overrides)
    from magicvideo_core.interpolate import interpolate_file

    count = interpolate_file(inputs, output, factor=factor, config=config)
    print(f"{count} frames: {output}")
    return DONE


cli.add_command(train)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit with its code."""
    sys.exit(run_command(sys.argv[1:] if arguments is None else arguments))


def run_command(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code; every error that a person can mend is one sentence on stderr."""
    log_to_stderr()
    try:
        code = cli.main(list(arguments), prog_name="magicvideo", standalone_mode=False)
        return code if isinstance(code, int) else DONE
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.ClickException as error:
        print_error(error.format_message())
        return WRONG_INPUT
    except InputError as error:
        print_error(str(error))
        return WRONG_INPUT
    except MagicVideoError as error:
        print_error(f"{type(error).__name__}: {error}")
        return SOME_CLIPS_DID_NOT
    except (click.Abort, KeyboardInterrupt):
        print_error("Interrupted; give the same command again.")
        return INTERRUPTED


def _warn_of_unknown_words(prompts: Iterable[str], config: RunConfig) -> None:
    words = words_outside_the_world(prompts, config)
    if words:
        shown = ", ".join(words[:12]) + (f" and {len(words) - 12} more" if len(words) > 12 else "")
        print(
            f"warning: the embedded weights have never seen: {shown}; expect what they know instead.", file=sys.stderr
        )


if __name__ == "__main__":
    main()
