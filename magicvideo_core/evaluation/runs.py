"""The oracle's verdict on a run: every artifact of one stage judged against its clip's prompt."""

from __future__ import annotations

from magicvideo_core.errors import MediaError, RunError
from magicvideo_core.evaluation.scoring import EvaluationReport
from magicvideo_core.ids import STAGES
from magicvideo_core.manifest.artifacts import read_artifact_frames
from magicvideo_core.manifest.run_record import read_run_json
from magicvideo_core.manifest.table import read_manifests
from magicvideo_core.storage import Storage

_WHAT = {"t2i": "reference images", "i2v": "keyframes", "v2v": "refined frames", "vfi": "finished videos"}


def evaluate_run(run_uri: str, stage: str = "vfi") -> EvaluationReport:
    """Judge what a run made in one stage: finished videos (vfi), refined frames, keyframes, or stills (t2i, no motion).

    Clips that did not succeed, unreadable artifacts and prompts outside the world are listed as not judged.

    Raises:
        RunError: there is no run at the place, or no such stage, or nothing of the stage has been finished.
    """
    if stage not in STAGES:
        raise RunError(f"There is no stage {stage!r}: choose one of {', '.join(STAGES)}.")
    storage = Storage(run_uri)
    record = read_run_json(storage)
    rows = read_manifests(storage, stage=stage)
    if not any(row.status == "succeeded" for row in rows):
        raise RunError(f"Run {record.run_id} at {run_uri} has no finished clip of stage {stage}: nothing to evaluate.")
    report = EvaluationReport(f"Run {record.run_id}: {_WHAT[stage]}")
    for row in rows:
        if row.status != "succeeded":
            report.not_judged.append(f"{row.clip_id}: {row.status} ({row.error_type or 'no artifact'})")
            continue
        try:
            frames_THWC_u8 = read_artifact_frames(storage, row)
        except (MediaError, FileNotFoundError) as error:
            report.not_judged.append(f"{row.clip_id}: {type(error).__name__}: {error}")
            continue
        report.add(row.prompt, frames_THWC_u8, label=row.clip_id)
    return report


def write_report_files(storage: Storage, report: EvaluationReport, stage: str) -> list[str]:
    """Write the verdict beside a run as Markdown and JSON; returns their URIs."""
    return [
        storage.write(f"report/evaluation-{stage}.md", report.as_markdown().encode()).uri,
        storage.write(f"report/evaluation-{stage}.json", report.as_json().encode()).uri,
    ]
