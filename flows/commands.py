"""What every command has in common: its help, its exit codes, and what it says where a run was interrupted."""

import shlex
from collections.abc import Callable, Sequence
from typing import Any

import click

from flows.terminal import LiveProgress, log_to_stderr, print_error, print_traceback
from magicvideo_core.errors import InputError, MagicVideoError, RunStoppedError
from tasks.progress import ProgressBoard

DONE, SOME_CLIPS_DID_NOT, WRONG_INPUT, INTERRUPTED = 0, 1, 2, 3


class Command(click.Command):
    """A command that takes --log-format, and whose help ends with its example as it was written."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.params.append(
            click.Option(
                ["--log-format"],
                type=click.Choice(["text", "json"]),
                default="text",
                envvar="MAGICVIDEO_LOG_FORMAT",
                expose_value=False,
                callback=lambda context, option, value: log_to_stderr(value),
                help="What stderr gets: text and a live table, or JSON lines with every step.",
            )
        )

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        if self.epilog:
            formatter.write_paragraph()
            formatter.write(f"Example:\n  {self.epilog}\n")


def drive(
    run_flow: Callable[[Callable[[ProgressBoard], None]], dict[str, Any]], go_on: Sequence[str]
) -> dict[str, Any] | None:
    """Show progress while a flow runs; returns its summary, None where it was interrupted.

    What interrupted it is then said, with `go_on`, the words of the command that continues. An InputError is raised.
    """
    try:
        with LiveProgress() as progress:
            return run_flow(progress)
    except InputError:
        raise
    except (KeyboardInterrupt, Exception) as error:
        if not isinstance(error, KeyboardInterrupt | MagicVideoError):
            print_traceback()
        print_stopped(error, go_on)
        return None


def print_stopped(error: BaseException, go_on: Sequence[str]) -> None:
    """Say in one line what stopped the work, and with which command it goes on."""
    print_error(f"{_why_stopped(error)}; continue with: {shlex.join(go_on)}")


def _why_stopped(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return "Interrupted"
    return str(error).rstrip(".") if isinstance(error, RunStoppedError) else f"{type(error).__name__}: {error}"
