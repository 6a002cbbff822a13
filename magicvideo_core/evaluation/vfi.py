"""Interpolators against the truth and one another: PSNR, SSIM, GMSD and flicker by kind of sequence, and the bars."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from magicvideo_core.evaluation.frame_measures import flicker, gmsd, psnr_db, ssim
from magicvideo_core.evaluation.vfi_sequences import OBJECT_KIND, RIGID_KINDS, SHAPES_KINDS, TIMES, VfiSequence
from magicvideo_core.stages.vfi import VFIStage

# Two frames (HWC uint8) and times -> the frames there (THWC uint8).
InterpolatePair = Callable[[np.ndarray, np.ndarray, tuple[float, ...]], np.ndarray]
MEASURES = {
    "psnr_db": "PSNR, dB (more is better)",
    "hidden_psnr_db": "PSNR of what one frame hides, dB (more is better)",
    "ssim": "SSIM (more is better)",
    "gmsd": "GMSD, perceptual (less is better)",
    "flicker": "flicker, levels of 255 (less is better)",
}
BLENDING, DIS = "blending", "DIS"


@dataclass(frozen=True, slots=True)
class SequenceScore:
    """One interpolator on one sequence: means over its frames; flicker over the sequence.

    `hidden_psnr_db`: where one of the given frames hides what is seen; NaN where that is not known.
    """

    interpolator: str
    kind: str
    psnr_db: float
    ssim: float
    gmsd: float
    flicker: float
    hidden_psnr_db: float = math.nan


def stage_interpolator(stage: VFIStage) -> InterpolatePair:
    """The loaded stage as it runs, cut detection included, for times that divide the gap evenly."""

    def interpolate(first: np.ndarray, second: np.ndarray, times: tuple[float, ...]) -> np.ndarray:
        factor = len(times) + 1
        if not np.allclose(times, [index / factor for index in range(1, factor)]):
            raise ValueError(f"times {times} do not divide the gap evenly")
        return np.stack(list(stage.interpolate(np.stack([first, second]), factor))[1:-1])

    return interpolate


def blend_pair(first: np.ndarray, second: np.ndarray, times: tuple[float, ...]) -> np.ndarray:
    """Linear blending, the least of baselines."""
    a, b = first.astype(np.float32), second.astype(np.float32)
    return np.stack([(a * (1 - t) + b * t).round().astype(np.uint8) for t in times])


def evaluate_vfi(interpolators: Mapping[str, InterpolatePair], sequences: Iterable[VfiSequence]) -> list[SequenceScore]:
    """Every interpolator on every sequence, at the times of the truth."""
    return [
        score_sequence(name, interpolate(each.first_HWC_u8, each.second_HWC_u8, TIMES), each)
        for each in sequences
        for name, interpolate in interpolators.items()
    ]


def score_sequence(interpolator: str, predicted_THWC_u8: np.ndarray, sequence: VfiSequence) -> SequenceScore:
    """The measures of one interpolated sequence."""
    region = sequence.region_HW
    pairs = list(zip(predicted_THWC_u8, sequence.truth_THWC_u8, strict=True))
    ends = sequence.first_HWC_u8[None], sequence.second_HWC_u8[None]
    predicted, truth = (
        np.concatenate([ends[0], frames, ends[1]]) for frames in (predicted_THWC_u8, sequence.truth_THWC_u8)
    )
    psnr, structure, gradients = (
        float(np.mean([measure(*pair, region) for pair in pairs])) for measure in (psnr_db, ssim, gmsd)
    )
    hidden = math.nan
    if sequence.hidden_THW is not None:
        hidden = float(np.mean([psnr_db(*pair, place) for pair, place in zip(pairs, sequence.hidden_THW, strict=True)]))
    shaking = flicker(predicted, truth, region)
    return SequenceScore(interpolator, sequence.kind, psnr, structure, gradients, shaking, hidden)


def format_table(scores: Sequence[SequenceScore], measure: str = "psnr_db") -> str:
    """One measure as a Markdown table: a row a kind, a column an interpolator, mean (standard deviation) over sequences."""
    names = list(dict.fromkeys(each.interpolator for each in scores))
    cells: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    scores = [each for each in scores if not math.isnan(getattr(each, measure))]
    for each in scores:
        cells[each.kind][each.interpolator].append(getattr(each, measure))
    for each in scores:
        if each.kind in SHAPES_KINDS:
            cells["all of these Moving Shapes"][each.interpolator].append(getattr(each, measure))
    decimals = {"psnr_db": 2, "hidden_psnr_db": 2, "ssim": 4, "gmsd": 4, "flicker": 2}[measure]
    lines = [
        f"| {MEASURES[measure]} | sequences | {' | '.join(names)} |",
        "|---|---|" + "---|" * len(names),
    ]
    for kind, row in cells.items():
        figures = (f"{np.mean(row[name]):.{decimals}f} ({np.std(row[name]):.{decimals}f})" for name in names)
        lines.append(f"| {kind} | {len(row[names[0]])} | {' | '.join(figures)} |")
    return "\n".join(lines)


def format_bars(scores: Sequence[SequenceScore], interpolator: str) -> str:
    """What the interpolator must show (against DIS, and against blending in every kind), a line each, met or not."""

    def mean(name: str, kinds: tuple[str, ...]) -> float:
        return float(np.mean([each.psnr_db for each in scores if each.interpolator == name and each.kind in kinds]))

    kinds = list(dict.fromkeys(each.kind for each in scores))
    bars = [("Moving Shapes", SHAPES_KINDS, DIS, 1.0)]
    bars += [(kind, (kind,), DIS, -1.5) for kind in RIGID_KINDS]
    bars += [(OBJECT_KIND, (OBJECT_KIND,), DIS, 1.0)]
    bars += [(kind, (kind,), BLENDING, 0.0) for kind in kinds]
    present = {each.interpolator for each in scores}
    lines = []
    for title, members, baseline, least in bars:
        if baseline in present and set(members) & set(kinds):
            lead = mean(interpolator, members) - mean(baseline, members)
            word = "met" if lead >= least else "NOT met"
            lines.append(f"{word}: {interpolator}, {title}: {lead:+.2f} dB against {baseline}, {least:+.1f} asked")
    return "\n".join(lines)
