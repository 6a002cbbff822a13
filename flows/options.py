"""Command-line options that several commands share, written once."""

from collections.abc import Callable
from typing import Any

import click

from tasks.resolve import RunRequest
from tasks.stop_conditions import parse_duration

Command = Callable[..., Any]

_CONFIG_OPTIONS = (
    click.option("--preset", default="tiny", show_default=True, help="Configuration that ships with the package."),
    click.option("--config", "config_file", metavar="FILE.toml", help="TOML file over the preset."),
    click.option("--set", "overrides", metavar="KEY=VALUE", multiple=True, help="One key over both; repeatable."),
)
_RUN_OPTIONS = (
    click.option("--run-id", metavar="ID", help="Name of the run; that of an interrupted run continues it."),
    click.option("--shard-size", type=int, metavar="N", help="Clips that are planned and shown together."),
    click.option("--stages", metavar="A,B", help="Neighbouring stages of t2i,i2v,v2v,vfi; all by default."),
)
_STOP_OPTIONS = (
    click.option(
        "--max-gpu-hours",
        type=click.FloatRange(min=0, min_open=True),
        metavar="X",
        help="Start no more work once this command's clips have taken X GPU-hours.",
    ),
    click.option(
        "--deadline", metavar="T", help="Start no more work from then on: 2026-11-23T06:00, or a duration (90m, 6h)."
    ),
)

reuse_option = click.option(
    "--reuse", metavar="RUN_URI", help="Take over finished stages of that run whose recipe is the same."
)
_FORECAST_OPTIONS = (
    click.option(
        "--timings",
        metavar="RUN_URI|t2i=S,...",
        help="Seconds per clip in each stage, or a run that has measured them: pools are sized by it, time forecast.",
    ),
    click.option(
        "--price-per-gpu-hour", type=click.FloatRange(min=0), metavar="X", help="For the cost in the forecast."
    ),
)
_MACHINE_OPTIONS = (
    click.option("--calibrate", type=click.IntRange(min=1), metavar="N", help="Measure with the first N clips, here."),
    click.option(
        "--gpus", type=click.IntRange(min=0), metavar="N", help="GPUs to forecast for; this machine's if not given."
    ),
    click.option(
        "--cpus", type=click.IntRange(min=1), metavar="N", help="CPUs to forecast for; this machine's if not given."
    ),
    click.option(
        "--gpu-memory-gib", type=click.FloatRange(min=0, min_open=True), metavar="X", help="What a GPU has room for."
    ),
)


def _check_duration(context: click.Context, option: click.Parameter, value: str | None) -> str | None:
    # Without a value of its own the option takes the word after it.
    if value is not None and parse_duration(value) is None:
        raise click.BadParameter(f"{value!r} is no duration such as 10m or 1h: give one, or put --keep-warm last.")
    return value


_WARM_OPTION = click.option(
    "--keep-warm",
    is_flag=False,
    flag_value="10m",
    metavar="[T]",
    callback=_check_duration,
    help="Let the actors wait at the end for a next run in the same Ray cluster: 10m if not said, 1h, ...",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")


def config_options(command: Command) -> Command:
    """Add --preset, --config and --set."""
    return _add(command, _CONFIG_OPTIONS)


def run_options(command: Command) -> Command:
    """Add what `generate` and `plan` share besides PROMPTS and --output."""
    return _add(command, _CONFIG_OPTIONS + _RUN_OPTIONS)


def stop_options(command: Command) -> Command:
    """Add --max-gpu-hours, --deadline and --keep-warm."""
    return _add(command, (*_STOP_OPTIONS, _WARM_OPTION))


def forecast_options(command: Command) -> Command:
    """Add --timings and --price-per-gpu-hour."""
    return _add(command, _FORECAST_OPTIONS)


def machine_options(command: Command) -> Command:
    """Add --calibrate, --gpus, --cpus and --gpu-memory-gib."""
    return _add(command, _MACHINE_OPTIONS)


def make_request(prompts: str, output: str, options: dict[str, Any]) -> RunRequest:
    """Return the request that the options of `run_options` stand for."""
    return RunRequest(prompts, output, **{**options, "overrides": tuple(options["overrides"])})


def generate_command(request: RunRequest, run_id: str) -> list[str]:
    """Return the words of the command that continues a run."""
    words = ["magicvideo", "generate", request.prompts, "--output", request.output, "--run-id", run_id]
    words += [] if request.preset == "tiny" else ["--preset", request.preset]
    words += [] if request.config_file is None else ["--config", request.config_file]
    for override in request.overrides:
        words += ["--set", override]
    words += [] if request.shard_size is None else ["--shard-size", str(request.shard_size)]
    words += [] if request.stages is None else ["--stages", request.stages]
    words += [] if request.reuse is None else ["--reuse", request.reuse]
    words += [] if request.timings is None else ["--timings", request.timings]
    if request.price_per_gpu_hour is not None:
        words += ["--price-per-gpu-hour", f"{request.price_per_gpu_hour:g}"]
    return words + stop_words(request.max_gpu_hours, request.deadline, request.keep_warm)


def stop_words(max_gpu_hours: float | None, deadline: str | None, keep_warm: str | None) -> list[str]:
    """Return the stop conditions as options of the command that goes on; a time that has come is none of them."""
    words = [] if max_gpu_hours is None else ["--max-gpu-hours", f"{max_gpu_hours:g}"]
    words += [] if keep_warm is None else ["--keep-warm", keep_warm]
    return words + (["--deadline", deadline] if deadline is not None and parse_duration(deadline) else [])


def _add(command: Command, options: tuple[Callable[[Command], Command], ...]) -> Command:
    for option in reversed(options):
        command = option(command)
    return command
