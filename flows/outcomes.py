"""What came of each run that a scheduled flow drove, and the state that the flow ends in for it."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from prefect.artifacts import create_table_artifact
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from magicvideo_core.errors import MagicVideoError, RunStoppedError

Kind = Literal["before", "succeeded", "clips-failed", "stopped", "unreadable", "error"]
_WORDS: dict[Kind, str] = {
    "succeeded": "succeeded",
    "before": "finished before",
    "clips-failed": "with clips that did not succeed",
    "stopped": "stopped",
    "unreadable": "cannot be used",
    "error": "ended by an error",
}
_FAILED: tuple[Kind, ...] = ("clips-failed", "unreadable", "error")


@dataclass(frozen=True)
class Outcome:
    """What came of one run; `source` is its prompt file, or the run itself."""

    source: str
    run_uri: str
    kind: Kind
    message: str | None = None

    @property
    def stopped(self) -> bool:
        """Whether a deadline or a budget ended it: nothing more is to be started."""
        return self.kind == "stopped"


def outcome_of(source: str, run_uri: str, ends_at: datetime | None, run_flow: Callable[[], dict[str, Any]]) -> Outcome:
    """Drive one run by its flow, unless it is over already at `ends_at`.

    What the project itself raises is an outcome, so that the other runs go on.
    """
    if ends_at is not None and datetime.now(UTC) >= ends_at:
        return Outcome(source, run_uri, "stopped", f"not begun before {ends_at:%Y-%m-%d %H:%M:%S %Z}")
    try:
        summary = run_flow()
    except RunStoppedError as error:
        return Outcome(source, run_uri, "stopped", str(error))
    except MagicVideoError as error:
        return Outcome(source, run_uri, "error", f"{type(error).__name__}: {error}")
    # A retry is answerable for what it was to make again, not for what it left alone.
    last = list(summary["stages"].values())[-1]
    done = summary.get("retried", {"num_clips": summary["num_clips"], "succeeded": last["succeeded"]})
    kind: Kind = "succeeded" if done["succeeded"] == done["num_clips"] else "clips-failed"
    return Outcome(source, run_uri, kind, f"{done['succeeded']} of {done['num_clips']} clips succeeded")


def end_state(key: str, outcomes: Sequence[Outcome]) -> State[Any]:
    """Return the state of the whole, with the outcomes as plain values; shows them as a table in Prefect's UI.

    Failed where a run has problems, for automations to act on; a stop that was asked for is none.
    """
    table = [asdict(outcome) for outcome in outcomes]
    if table:
        create_table_artifact(table, key=key, description="Runs, and what came of each.")
    counts = {kind: [outcome.kind for outcome in outcomes].count(kind) for kind in _WORDS}
    message = "; ".join(f"{count} {_WORDS[kind]}" for kind, count in counts.items() if count) or "nothing to do"
    if any(counts[kind] for kind in _FAILED):
        first = next(outcome for outcome in outcomes if outcome.kind in _FAILED)
        return Failed(message=f"{message}; the first: {first.source}: {first.message}")
    if counts["stopped"]:
        return Completed(name="Stopped", message=message, data=table)
    return Completed(message=message, data=table)
