"""What a person sees: the live table, tables of plans and runs, one-sentence errors. stdout is for results only."""

import json
import logging
import sys
import traceback
from collections.abc import Callable, Mapping
from datetime import timedelta
from functools import cache
from typing import Any

from rich import box
from rich.console import Console
from rich.live import Live
from rich.logging import RichHandler
from rich.table import Table

from magicvideo_core.logs import log_json_to_stderr, writes_json_to_stderr
from magicvideo_core.redact import RedactingFilter, redact
from tasks.progress import STATES, ProgressBoard

# Title, name in the forecast, and how its value is shown.
_FORECAST_ROWS: tuple[tuple[str, str, Callable[[Any], str]], ...] = (
    (
        "seconds per clip",
        "seconds_per_clip",
        lambda each: ", ".join(f"{key} {value:.3g}" for key, value in each.items()),
    ),
    ("measured", "source", str),
    ("on", "resources", lambda each: ", ".join(f"{value:g} {key}s" for key, value in each.items())),
    ("actors", "actors", lambda each: ", ".join(f"{key} {value}" for key, value in each.items())),
    ("bottleneck", "bottleneck", str),
    ("clips per hour", "clips_per_hour", lambda value: f"{value:,.4g}"),
    ("wall time", "wall_s", lambda value: str(timedelta(seconds=round(value)))),
    ("GPU-hours busy", "busy_gpu_hours", lambda value: f"{value:,.3f}"),
    ("GPU-hours held", "held_gpu_hours", lambda value: f"{value:,.3f}"),
    ("storage", "storage_bytes", lambda value: f"{value / 1e9:,.3f} GB"),
    ("cost", "cost", lambda value: f"{value:,.2f}"),
)


@cache
def error_console() -> Console:
    """Return the console for everything that is not the result; one for all, so that lines stand above the table."""
    return Console(stderr=True, soft_wrap=True, highlight=False)


def print_error(message: str) -> None:
    """Print one sentence on stderr, whatever line breaks the message had."""
    print(f"error: {' '.join(redact(message).split())}", file=sys.stderr)


def print_traceback() -> None:
    """Print the traceback of the error that is being handled on stderr."""
    print(redact(traceback.format_exc()), end="", file=sys.stderr)


def log_to_stderr(log_format: str = "text") -> None:
    """Send log records of warnings and above to stderr, without credentials; as `json` events too, a record a line."""
    if log_format == "json":
        for before in logging.getLogger().handlers[:]:
            logging.getLogger().removeHandler(before)
        log_json_to_stderr()
        return
    handler = RichHandler(console=error_console(), show_path=False, show_time=False)
    handler.addFilter(RedactingFilter())
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler])


def print_json(document: Any) -> None:
    """Print one JSON document on stdout."""
    print(json.dumps(document, indent=2, ensure_ascii=False))


def print_tables(*tables: Table) -> None:
    """Print tables on stdout."""
    console = Console(highlight=False)
    for table in tables:
        console.print(table)


class LiveProgress:
    """The table of a running run on stderr; a context manager. On a pipe only its last state is printed."""

    def __init__(self) -> None:
        """Show nothing where stderr is for JSON lines."""
        self._console = error_console() if not writes_json_to_stderr() else Console(quiet=True)
        self._live = Live(console=self._console, auto_refresh=False) if self._console.is_terminal else None
        self._counts: dict[str, dict[str, Any]] = {}

    def __call__(self, board: ProgressBoard) -> None:
        """Show the counts as they are now."""
        loads = board.loads()
        counts = {stage: stage_counts.to_json() for stage, stage_counts in board.snapshot().items()}
        for stage, load in loads.items():
            counts[stage] |= load.to_json()
        if counts != self._counts:
            self._counts = counts
            if self._live is not None:
                self._live.update(stage_table(counts, with_loads=True), refresh=True)

    def __enter__(self) -> "LiveProgress":
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *details: object) -> None:
        if self._live is not None:
            self._live.stop()
        elif self._counts:
            # What waits and who works is of no more interest at the end.
            self._console.print(stage_table(self._counts))


class CountedProgress:
    """One line "doing x: 3 of 40" on a terminal's stderr, nothing on a pipe; call it with counts, close it at the end."""

    def __init__(self, doing: str) -> None:
        self._doing = doing
        self._status = error_console().status(f"{doing} ...") if error_console().is_terminal else None
        if self._status is not None:
            self._status.start()

    def __call__(self, done: int, total: int, part: str = "") -> None:
        """Show how many are done, and of what part of the work."""
        if self._status is not None:
            self._status.update(f"{self._doing}{part and f', {part}'}: {done} of {total}")

    def close(self) -> None:
        """Take the line away."""
        if self._status is not None:
            self._status.stop()


def stage_table(stages: Mapping[str, Mapping[str, Any]], *, with_loads: bool = False) -> Table:
    """Return the counts of every stage as a table; `with_loads` also the clips that wait, and how busy its actors are."""
    titles = ("queue", "actors", "busy") if with_loads else ()
    table = Table("stage", *STATES, "s/clip", *titles, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in table.columns[1:]:
        column.justify = "right"
    for stage, counts in stages.items():
        seconds = counts["seconds_per_clip"]
        cells = [str(counts[name]) if counts[name] else "·" for name in STATES]
        cells.append("·" if seconds is None else f"{seconds:.2f}")
        if with_loads:
            busy = counts.get("busy")
            cells += [str(counts.get(name) or "·") for name in ("queue", "actors")]
            cells.append("·" if busy is None else f"{busy:.0%}")
        table.add_row(stage, *cells)
    return table


def forecast_table(forecast: Mapping[str, Any] | None, actual: Mapping[str, Any] | None = None) -> Table:
    """Return a forecast, what a run took so far, or both beside each other."""
    columns = {"forecast": forecast, "actual": actual}
    shown = {name: values for name, values in columns.items() if values is not None}
    table = Table("", *shown, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for title, name, show in _FORECAST_ROWS:
        cells = [show(values[name]) if values.get(name) is not None else "·" for values in shown.values()]
        if set(cells) != {"·"}:
            table.add_row(title, *cells)
    return table


def plan_table(plan: Mapping[str, Any]) -> Table:
    """Return the pools of a plan as a table."""
    table = Table(
        "stage",
        "backend",
        "weights",
        "clips",
        "actors",
        "GPUs",
        "CPUs",
        "batch",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    for stage, pool in plan["stages"].items():
        actors = str(pool["min_actors"])
        if pool["max_actors"] != pool["min_actors"]:
            actors += f" to {pool['max_actors']}"
        table.add_row(
            stage,
            pool["backend"],
            pool["weights"],
            str(pool["num_clips"]),
            actors,
            f"{pool['num_gpus']:g}",
            f"{pool['num_cpus']:g}",
            str(pool["batch_size"]),
        )
    return table
