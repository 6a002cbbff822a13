"""Command-line options that several commands share, written once."""

from collections.abc import Callable
from typing import Any

import click

from tasks.resolve import RunRequest

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

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")


def config_options(command: Command) -> Command:
    """Add --preset, --config and --set."""
    return _add(command, _CONFIG_OPTIONS)


def run_options(command: Command) -> Command:
    """Add what `generate` and `plan` share besides PROMPTS and --output."""
    return _add(command, _CONFIG_OPTIONS + _RUN_OPTIONS)


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
    return words


def _add(command: Command, options: tuple[Callable[[Command], Command], ...]) -> Command:
    for option in reversed(options):
        command = option(command)
    return command
