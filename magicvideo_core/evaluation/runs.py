"""The oracle's verdict on a run: artifacts of one stage or of all, judged against their clips' prompts."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from magicvideo_core.config import V2VConfig
from magicvideo_core.errors import MediaError, RunError
from magicvideo_core.evaluation.fidelity import upscaled
from magicvideo_core.evaluation.measures import note_lost_texture
from magicvideo_core.evaluation.plot import Mark, Panel, interval_plot
from magicvideo_core.evaluation.scoring import ROWS, EvaluationReport
from magicvideo_core.evaluation.tables import objects_name, report_table, row_name, stages_table
from magicvideo_core.ids import STAGES
from magicvideo_core.manifest.artifacts import read_artifact_frames
from magicvideo_core.manifest.run_record import read_run_json
from magicvideo_core.manifest.schema import ManifestRow
from magicvideo_core.manifest.table import read_manifests
from magicvideo_core.storage import Storage

# What can be judged, in the order in which it comes about; bicubic is what V2V has to be better than.
WHAT = {
    "t2i": "reference images",
    "i2v": "keyframes",
    "bicubic": "keyframes upscaled to V2V's size by bicubic interpolation",
    "v2v": "refined frames",
    "vfi": "finished videos",
}
COLUMNS = {
    "t2i": "T2I, image",
    "i2v": "I2V, keyframes",
    "bicubic": "keyframes, bicubic",
    "v2v": "V2V",
    "vfi": "VFI, video",
}
ALL = "all"


@dataclass(frozen=True, slots=True)
class RunEvaluation:
    """The reports of a run by what was judged (the keys of WHAT)."""

    run_id: str
    reports: Mapping[str, EvaluationReport]

    def as_markdown(self) -> str:
        """One report's table, or all stages side by side."""
        if len(self.reports) == 1:
            return report_table(next(iter(self.reports.values())))
        return stages_table(f"Run {self.run_id}", {COLUMNS[name]: each for name, each in self.reports.items()})

    def as_json(self) -> str:
        """One report, or `{"run_id", "stages": {name: report}}`."""
        if len(self.reports) == 1:
            return next(iter(self.reports.values())).as_json()
        stages = {name: report.as_dict() for name, report in self.reports.items()}
        return json.dumps({"run_id": self.run_id, "stages": stages}, indent=1)

    def as_svg(self) -> str:
        """Shares of all attributes with their intervals, the judged stages beside each other."""
        panels = []
        counts = {count for report in self.reports.values() for count in report.object_counts}
        for num_objects in sorted(counts):
            rows = []
            for row in ROWS:
                found = [report.count(row, num_objects=num_objects) for report in self.reports.values()]
                marks = [Mark(n, each.share, *each.interval) for n, each in enumerate(found) if each.judged]
                rows.append((row_name(row), marks))
            panels.append(Panel(objects_name(num_objects), rows))
        return interval_plot(f"Run {self.run_id}", [COLUMNS[name] for name in self.reports], panels)


def evaluate_run(
    run_uri: str, what: str = "vfi", on_clip: Callable[[int, int], None] = lambda done, total: None
) -> RunEvaluation:
    """Judge what a run made: one of WHAT, or "all" for every stage that the run has finished clips of.

    Clips that did not succeed, unreadable artifacts and prompts outside the world are listed as not judged. `on_clip`
    hears how many clips are done, of how many.

    Raises:
        RunError: there is no run at the place, or no such stage, or nothing of the stage has been finished.
    """
    if what not in (*WHAT, ALL):
        raise RunError(f"There is no stage {what!r}: choose one of {', '.join((*WHAT, ALL))}.")
    storage = Storage(run_uri)
    record = read_run_json(storage)
    clips: dict[str, dict[str, ManifestRow]] = {}
    for row in read_manifests(storage):
        clips.setdefault(row.clip_id, {})[row.stage] = row
    finished = {row.stage for rows in clips.values() for row in rows.values() if row.status == "succeeded"}
    wanted = [name for name in WHAT if what in (name, ALL) and _artifact_stage(name) in finished]
    if not wanted:
        of = "" if what == ALL else f" of stage {_artifact_stage(what)}"
        raise RunError(f"Run {record.run_id} at {run_uri} has no finished clip{of}: nothing to evaluate.")
    reports = {name: EvaluationReport(f"Run {record.run_id}: {WHAT[name]}") for name in wanted}
    for done, rows in enumerate(clips.values(), start=1):
        _judge_clip(storage, rows, reports, record.config.v2v)
        on_clip(done, len(clips))
    return RunEvaluation(record.run_id, reports)


def write_report_files(storage: Storage, evaluation: RunEvaluation, what: str) -> list[str]:
    """Write the verdict beside a run as Markdown, JSON and a plot; returns their URIs."""
    contents = {"md": evaluation.as_markdown(), "json": evaluation.as_json(), "svg": evaluation.as_svg()}
    return [storage.write(f"report/evaluation-{what}.{end}", text.encode()).uri for end, text in contents.items()]


def _artifact_stage(name: str) -> str:
    return "i2v" if name == "bicubic" else name


def _judge_clip(
    storage: Storage, rows: Mapping[str, ManifestRow], reports: Mapping[str, EvaluationReport], v2v: V2VConfig
) -> None:
    """Judge one clip for every report; each of its artifacts is read once."""
    frames: dict[str, np.ndarray] = {}
    problems: dict[str, str] = {}
    for stage in _needed(reports):
        row = rows.get(stage)
        if row is None:
            continue
        if row.status != "succeeded":
            problems[stage] = f"{row.clip_id}: {row.status} ({row.error_type or 'no artifact'})"
            continue
        try:
            frames[stage] = read_artifact_frames(storage, row)
        except (MediaError, FileNotFoundError) as error:
            problems[stage] = f"{row.clip_id}: {type(error).__name__}: {error}"
    refined = rows.get("v2v")
    size = (refined.height, refined.width) if refined and refined.height and refined.width else (v2v.height, v2v.width)
    reference = frames["t2i"][0] if "t2i" in frames else None
    judged: dict[str, dict[str, float]] = {}
    for name, report in reports.items():
        stage = _artifact_stage(name)
        if stage in problems:
            report.not_judged.append(problems[stage])
        elif stage in frames:
            shown = upscaled(frames[stage], size) if name == "bicubic" else frames[stage]
            result = report.add(rows[stage].prompt, shown, rows[stage].clip_id, reference)
            if result is not None:
                judged[name] = result.measures
    note_lost_texture(judged)


def _needed(reports: Mapping[str, EvaluationReport]) -> Sequence[str]:
    return [stage for stage in STAGES if stage == "t2i" or stage in map(_artifact_stage, reports)]
