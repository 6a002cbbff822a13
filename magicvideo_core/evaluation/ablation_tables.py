"""The ablations as Markdown, JSON and a plot: every variant against the baseline, clip by clip, and what of the claims held.

A difference is bold where its 95 % interval (paired over the clips) excludes zero. A claim names in advance in what its
variant has to lose; there the intervals are widened for the number of comparisons (Bonferroni).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from magicvideo_core.evaluation.ablations import Values, VariantVerdict
from magicvideo_core.evaluation.intervals import (
    Estimate,
    mean_estimate,
    paired_mean_difference,
    paired_share_difference,
    wilson_interval,
)
from magicvideo_core.evaluation.measures import MEASURES
from magicvideo_core.evaluation.plot import Mark, Panel, interval_plot
from magicvideo_core.evaluation.scoring import ROWS
from magicvideo_core.evaluation.variants import CLAIMS, Claim

# The columns, and their short headings: attributes in per cent, then measures.
_COLUMNS = {
    **{row: "all at once" if row == "all" else row for row in ROWS},
    "first_frame_psnr": "reference PSNR (dB)",
    "first_frame_iou": "reference IoU",
    "colour_drift": "colour drift",
    "displacement_of_nominal": "displacement",
    "texture_of_truth": "texture contrast",
    "flicker": "flicker",
    "object_flicker": "object flicker",
}
_STAGE_TITLES = {"v2v": "Refined frames (after V2V)", "i2v": "Keyframes (before V2V)"}


def difference(
    baseline: Mapping[str, Values], other: Mapping[str, Values], name: str, level: float = 0.95
) -> Estimate | None:
    """What a variant changes in one attribute (a share) or measure, over the clips where both have it."""
    pairs = []
    for clip_id in baseline.keys() & other.keys():
        first, second = baseline[clip_id].get(name), other[clip_id].get(name)
        if first is not None and second is not None:
            pairs.append((first, second))
    if name in ROWS:
        return paired_share_difference([(bool(first), bool(second)) for first, second in pairs], level)
    # In one order whatever that of the clips was, so that the bootstrap gives the same interval.
    return paired_mean_difference(sorted(pairs), level)


def is_loss(name: str, change: Estimate) -> bool:
    """Whether a change, where its interval excludes zero, is one for the worse."""
    falls = name in ROWS or MEASURES[name].better == "more"
    return change.excludes_zero and (change.value < 0) == falls


def judge_claim(claim: Claim, verdicts: Mapping[str, VariantVerdict]) -> tuple[str, str]:
    """Whether a claim held, and the changes that say so; ("not measured", "") without its variant."""
    if claim.variant not in verdicts:
        return "not measured", ""
    baseline, other = next(iter(verdicts.values())).values["v2v"], verdicts[claim.variant].values["v2v"]
    level = 1 - 0.05 / len(claim.loses)
    changes = {name: difference(baseline, other, name, level) for name in claim.loses}
    known = {name: change for name, change in changes.items() if change is not None}
    losses = [name for name, change in known.items() if is_loss(name, change)]
    gains = [name for name, change in known.items() if change.excludes_zero and name not in losses]
    text = "; ".join(f"{_COLUMNS[name]} {_with_interval(name, change)}" for name, change in known.items())
    lost, gained = (", ".join(_COLUMNS[name] for name in names) for names in (losses, gains))
    if losses:
        return f"held: loses {lost}" + (f"; but gains {gained}" if gains else ""), text
    return (f"the other way round: gains {gained}" if gains else "no difference seen"), text


def ablations_markdown(verdicts: Sequence[VariantVerdict], title: str, notes: Iterable[str] = ()) -> str:
    """The tables that docs and README take: refined frames, keyframes, claims. The first verdict is the baseline's."""
    by_name = {verdict.variant.name: verdict for verdict in verdicts}
    tests = {claim.variant: str(number) for number, claim in enumerate(CLAIMS, start=1)}
    lines = [f"### {title}", ""]
    lines.append(
        "Per cent of clips or means; in brackets the difference to the baseline, bold where its interval excludes zero."
    )
    for stage, heading in _STAGE_TITLES.items():
        lines += ["", f"{heading}:", "", f"| variant | {' | '.join(_COLUMNS.values())} | claim |"]
        lines.append("|---" * (len(_COLUMNS) + 2) + "|")
        for verdict in verdicts:
            # Before V2V a variant that only changes V2V is the baseline.
            if stage == "i2v" and verdict is not verdicts[0] and verdict.values[stage] == verdicts[0].values[stage]:
                continue
            cells = [_cell(verdicts[0], verdict, stage, name) for name in _COLUMNS]
            claim = tests.get(verdict.variant.name, "") if stage == "v2v" else ""
            lines.append(f"| {verdict.variant.text} | {' | '.join(cells)} | {claim} |")
    lines += ["", "| | claim | switched off | change in what it names, interval widened for their number | here |"]
    lines.append("|---|---|---|---|---|")
    for number, each in enumerate(CLAIMS, start=1):
        held, text = judge_claim(each, by_name)
        off = by_name[each.variant].variant.text if each.variant in by_name else "–"
        source = "" if each.source == "paper" else f" ({each.source})"
        lines.append(f"| {number} | {each.text}{source} | {off} | {text or '–'} | {held} |")
    failed = [
        f"{len(verdict.failed)} clips of variant {verdict.variant.name} failed."
        for verdict in verdicts
        if verdict.failed
    ]
    return "\n".join([*lines, *(f"\n{each}" for each in (*notes, *failed))]) + "\n"


def ablations_json(verdicts: Sequence[VariantVerdict]) -> dict[str, Any]:
    """Everything as plain JSON values: per variant and stage the figures, their differences, and the clips one by one."""
    by_name = {verdict.variant.name: verdict for verdict in verdicts}
    names = [*ROWS, *MEASURES]
    variants = {}
    for verdict in verdicts:
        stages = {}
        for stage, values in verdict.values.items():
            figures = {}
            for name in names:
                own, change = _own(values, name), difference(verdicts[0].values[stage], values, name)
                if own is not None:
                    figures[name] = {**own.as_dict(), "difference": change.as_dict() if change else None}
            stages[stage] = {"figures": figures, "clips": values}
        variants[verdict.variant.name] = {
            "text": verdict.variant.text,
            "overrides": verdict.variant.overrides,
            "upscaling": verdict.variant.upscaling,
            "failed": verdict.failed,
            "stages": stages,
        }
    claims = []
    for claim in CLAIMS:
        held, text = judge_claim(claim, by_name)
        claims.append(
            {"claim": claim.text, "source": claim.source, "variant": claim.variant, "held": held, "why": text}
        )
    return {"baseline": verdicts[0].variant.name, "variants": variants, "claims": claims}


def ablations_svg(verdicts: Sequence[VariantVerdict], title: str) -> str:
    """Shares of the refined frames per variant: everything right at once, shape, texture and motion."""
    panels = []
    for name in ("all", "shape", "texture", "motion"):
        rows = []
        for verdict in verdicts:
            own = _own(verdict.values["v2v"], name)
            rows.append((verdict.variant.name, [Mark(1, own.value, own.low, own.high)] if own else []))
        panels.append(Panel(_COLUMNS[name], rows))
    return interval_plot(title, ["share of clips"], panels)


def _own(values: Mapping[str, Values], name: str) -> Estimate | None:
    """A variant's own figure: a share with its Wilson interval, or a mean."""
    found = [each[name] for each in values.values() if each.get(name) is not None]
    if name not in ROWS:
        return mean_estimate(sorted(float(each) for each in found if each is not None))
    correct = sum(bool(each) for each in found)
    return Estimate(correct / len(found), *wilson_interval(correct, len(found)), len(found)) if found else None


def _cell(baseline: VariantVerdict, verdict: VariantVerdict, stage: str, name: str) -> str:
    own = _own(verdict.values[stage], name)
    if own is None:
        return "–"
    text = _figure(name, own.value)
    change = None if verdict is baseline else difference(baseline.values[stage], verdict.values[stage], name)
    if change is None:
        return text
    signed = _figure(name, change.value, signed=True)
    return f"{text} (**{signed}**)" if change.excludes_zero else f"{text} ({signed})"


def _figure(name: str, value: float, *, signed: bool = False) -> str:
    percent, decimals = (100, 0) if name in ROWS else (1, MEASURES[name].decimals)
    text = f"{abs(percent * value):.{decimals}f}"
    if float(text) == 0:
        return text
    return ("−" if value < 0 else "+" if signed else "") + text


def _with_interval(name: str, change: Estimate) -> str:
    value, low, high = (_figure(name, each, signed=True) for each in (change.value, change.low, change.high))
    return f"{value} ({low} to {high})"
