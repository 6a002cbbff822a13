"""The list of clips as the page carries it: columns of plain JSON values, a few hundred bytes a clip.

The page's script (`templates/report.js`) reads what `listing` returns; the two agree on the names here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from magicvideo_core.report.clip_views import ClipView, StageResult
from magicvideo_core.report.measured import Measured

# What is longer is cut: a page of many clips must open, and the manifests have all of it.
LONGEST_PROMPT = 1000
LONGEST_MESSAGE = 1000
LONGEST_TRACEBACK = 6000
# Of all tracebacks together, in characters; clips whose errors come after that have their message alone.
MOST_TRACEBACKS = 2_000_000


def listing(
    clips: Sequence[ClipView], stages: Sequence[str], pictures: Mapping[str, str], measured: Measured
) -> dict[str, Any]:
    """Return the columns of the clips; `pictures` are data URIs, or URLs relative to the page, by clip id.

    Seeds are strings (they may exceed what a script counts exactly); a key of an artifact is what follows
    `artifacts/{stage}/{clip_id}.`, or the whole of it after a slash.
    """
    errors = _Errors()
    results = [{each.stage: each for each in clip.results} for clip in clips]
    return {
        "stages": list(stages),
        "id": [clip.clip_id for clip in clips],
        "prompt": [_cut(clip.prompt, LONGEST_PROMPT) for clip in clips],
        "negative": _sparse([_cut(clip.negative_prompt, LONGEST_PROMPT) for clip in clips], ""),
        "seed": [str(clip.seed) for clip in clips],
        "source": _sparse([clip.source_id or "" for clip in clips], ""),
        "status": [clip.status for clip in clips],
        "results": {stage: _stage(clips, [own.get(stage) for own in results]) for stage in stages},
        "error": _sparse([errors.index(clip.problem()) for clip in clips], -1),
        "errors": errors.rows,
        "picture": _sparse([pictures.get(clip.clip_id, "") for clip in clips], ""),
        "measures": measured.columns([clip.clip_id for clip in clips]),
    }


def to_script(values: Any) -> str:
    """Return JSON that may stand in a script element: nothing in it can end the element or begin a comment."""
    text = json.dumps(values, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return (
        text.replace("<", "\\u003c").replace(">", "\\u003e").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    )


class _Errors:
    """The distinct errors of a run as [stage, type, attempt, message, traceback]; many clips fail in the same words."""

    def __init__(self) -> None:
        self.rows: list[list[Any]] = []
        self._places: dict[tuple[Any, ...], int] = {}
        self._room = MOST_TRACEBACKS

    def index(self, result: StageResult | None) -> int:
        """Return the place of a clip's error, -1 of no problem."""
        if result is None:
            return -1
        known = (result.stage, result.error_type or "unknown", result.attempt)
        key = (*known, _cut(result.error_message or "", LONGEST_MESSAGE))
        if key not in self._places:
            traceback = _cut(result.error_traceback or "", LONGEST_TRACEBACK)
            self._room -= len(traceback)
            self._places[key] = len(self.rows)
            self.rows.append([*key, traceback if self._room >= 0 else ""])
        return self._places[key]


def _stage(clips: Sequence[ClipView], results: Sequence[StageResult | None]) -> dict[str, list[Any]]:
    return {
        "status": ["" if each is None else each.status for each in results],
        "seconds": [None if each is None or each.duration_s is None else _rounded(each.duration_s) for each in results],
        "bytes": [None if each is None else each.size_bytes for each in results],
        "key": [_rest_of_key(clip, each) for clip, each in zip(clips, results, strict=True)],
    }


def _rest_of_key(clip: ClipView, result: StageResult | None) -> str:
    if result is None or result.key is None:
        return ""
    usual = f"artifacts/{result.stage}/{clip.clip_id}."
    return result.key.removeprefix(usual) if result.key.startswith(usual) else f"/{result.key}"


def _sparse(values: list[Any], absent: Any) -> list[Any] | None:
    """Return None in place of a column in which no clip has anything."""
    return values if any(value != absent for value in values) else None


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[:length]}…"
