"""The verdict as Markdown: one stage with its groups, or all stages side by side, one and two objects apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from magicvideo_core.evaluation.intervals import Estimate
from magicvideo_core.evaluation.measures import MEASURES, Measure
from magicvideo_core.evaluation.scoring import GROUPS, ROWS, Count, EvaluationReport

GROUP_NAMES = {"trained": "trained triples", "held_out": "held-out triples", "both": "both"}
_OBJECTS = {1: "One object", 2: "Two objects"}


def row_name(row: str) -> str:
    """Return an attribute as tables name it."""
    return "all at once" if row == "all" else row


def objects_name(num_objects: int) -> str:
    """Return the heading of the samples with so many objects."""
    return _OBJECTS[num_objects]


def report_table(report: EvaluationReport) -> str:
    """Attributes down, groups across, each as share, 95 % interval and count; then the measures."""
    lines = [f"### {report.title}"]
    for num_objects in report.object_counts:
        lines += ["", f"{objects_name(num_objects)}:", ""]
        lines += _rule("attribute", [*(GROUP_NAMES[group] for group in GROUPS), "both, plain classification"])
        for row in ROWS:
            cells = [_with_count(report.count(row, group, num_objects)) for group in GROUPS]
            both = report.count(row, num_objects=num_objects)
            plain = f"{100 * both.classified / both.judged:.1f} %" if both.judged else "–"
            lines.append(_line(row_name(row), [*cells, plain]))
        lines += ["", *_measures_table({"mean (95 %)": report}, num_objects)]
    if report.not_judged:
        lines += ["", f"Not judged: {len(report.not_judged)}."]
    return "\n".join(lines) + "\n"


def stages_table(title: str, reports: Mapping[str, EvaluationReport]) -> str:
    """Stages across, given by the heading of their column; attributes and groups down, then the measures."""
    lines = [f"### {title}"]
    for num_objects in sorted({count for report in reports.values() for count in report.object_counts}):
        lines += ["", f"{objects_name(num_objects)}:", "", *_rule("attribute", ["triples", *reports])]
        for row in ROWS:
            for group in GROUPS:
                cells = [share_cell(report.count(row, group, num_objects)) for report in reports.values()]
                lines.append(_line(row_name(row), [GROUP_NAMES[group].removesuffix(" triples"), *cells]))
        judged = [str(report.count("all", num_objects=num_objects).judged) for report in reports.values()]
        lines.append(_line("clips judged", ["both", *judged]))
        lines += ["", *_measures_table(reports, num_objects)]
    for name, report in reports.items():
        if report.not_judged:
            lines += ["", f"Not judged, {name}: {len(report.not_judged)}."]
    return "\n".join(lines) + "\n"


def share_cell(count: Count) -> str:
    """A share with its 95 % interval, in per cent."""
    if not count.judged:
        return "–"
    low, high = count.interval
    return f"{100 * count.share:.1f} % ({100 * low:.0f}–{100 * high:.0f})"


def measure_cell(estimate: Estimate | None, measure: Measure) -> str:
    """A mean with its 95 % interval, to the measure's decimals."""
    if estimate is None:
        return "–"
    value, low, high = (f"{each:.{measure.decimals}f}" for each in (estimate.value, estimate.low, estimate.high))
    return f"{value} ({low} to {high})"


def _measures_table(reports: Mapping[str, EvaluationReport], num_objects: int) -> list[str]:
    lines = _rule("measure", list(reports))
    for name, measure in MEASURES.items():
        estimates = [report.measure(name, num_objects=num_objects) for report in reports.values()]
        if any(estimates):
            lines.append(_line(measure.text, [measure_cell(each, measure) for each in estimates]))
    return lines


def _with_count(count: Count) -> str:
    return f"{share_cell(count)}, {count.correct}/{count.judged}" if count.judged else "–"


def _rule(first: str, columns: Sequence[str]) -> list[str]:
    return [_line(first, columns), "|---" * (len(columns) + 1) + "|"]


def _line(first: str, cells: Sequence[str]) -> str:
    return f"| {' | '.join([first, *cells])} |"
