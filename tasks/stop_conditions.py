"""When a run starts no more work although some is left (its GPU budget, its deadline), and what stays when it ends."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from magicvideo_core.errors import InputError

_DURATION = re.compile(
    r"(?:(?P<days>[\d.]+)d)?(?:(?P<hours>[\d.]+)h)?(?:(?P<minutes>[\d.]+)m)?(?:(?P<seconds>[\d.]+)s)?"
)


@dataclass(frozen=True)
class StopConditions:
    """The bounds of one command's work on a run; no part of the run's configuration. None bounds nothing.

    `max_gpu_hours` counts what clips take in this command's actors, failed tries included; `deadline` is aware. Actors
    wait for `keep_warm_s` for another run.
    """

    max_gpu_hours: float | None = None
    deadline: datetime | None = None
    keep_warm_s: float = 0.0


def parse_stop_conditions(
    max_gpu_hours: float | None, deadline: str | None, keep_warm: str | None = None
) -> StopConditions:
    """Return the conditions that options or flow parameters stand for, durations counted from now.

    Raises InputError in one sentence where a bound is none, or lies in the past, or where `keep_warm` is no duration.
    """
    keep_warm_s = _parse_keep_warm(keep_warm) if keep_warm is not None else 0.0
    if max_gpu_hours is not None and not max_gpu_hours > 0:
        raise InputError(f"A budget of {max_gpu_hours} GPU-hours allows no work: give --max-gpu-hours more than 0.")
    if deadline is None:
        return StopConditions(max_gpu_hours, keep_warm_s=keep_warm_s)
    now = datetime.now(UTC)
    duration = parse_duration(deadline)
    ends_at = now + duration if duration is not None else _parse_time(deadline)
    if ends_at <= now:
        raise InputError(f"The deadline {deadline!r} has passed: give a later one, or none.")
    return StopConditions(max_gpu_hours, ends_at, keep_warm_s)


def parse_duration(text: str) -> timedelta | None:
    """Return a duration such as 90m, 6h or 1d12h, None where the text is not of this form."""
    match = _DURATION.fullmatch(text.strip())
    try:
        parts = {unit: float(value) for unit, value in match.groupdict().items() if value} if match else {}
        return timedelta(**parts) if parts else None
    except (ValueError, OverflowError):
        return None


def _parse_keep_warm(text: str) -> float:
    duration = parse_duration(text)
    if duration is None or not duration:
        raise InputError(f"Actors cannot be kept warm for {text!r}: give --keep-warm a duration such as 10m or 1h.")
    return duration.total_seconds()


def _parse_time(text: str) -> datetime:
    try:
        # A time without a zone is meant as the clock of this machine shows it.
        return datetime.fromisoformat(text.strip()).astimezone(UTC)
    except (ValueError, OverflowError):
        raise InputError(
            f"The deadline {text!r} is neither a time such as 2026-11-23T06:00 nor a duration such as 90m or 6h."
        ) from None
