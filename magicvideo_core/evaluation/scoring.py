"""Scores samples with the oracle: shares per attribute with confidence intervals, trained and held-out apart."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from magicvideo_core.moving_shapes.oracle import ATTRIBUTES, Judgement, judge
from magicvideo_core.moving_shapes.world import MOVE_DISTANCE, MOVES, SceneSpec, parse_prompt

GROUPS = ("trained", "held_out", "both")
ROWS = (*ATTRIBUTES, "all")


def wilson_interval(correct: int, count: int, z: float = 1.96) -> tuple[float, float]:
    """The Wilson score interval of a share, by default at 95 % (Wilson 1927); (0, 1) without any trial."""
    if count == 0:
        return 0.0, 1.0
    share = correct / count
    centre = share + z * z / (2 * count)
    spread = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    scale = 1 + z * z / count
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


@dataclass(slots=True)
class Count:
    """How often one attribute was right: strictly (good enough too), and by plain classification over its values."""

    judged: int = 0
    correct: int = 0
    classified: int = 0

    @property
    def share(self) -> float:
        return self.correct / self.judged if self.judged else math.nan

    def as_dict(self) -> dict[str, Any]:
        low, high = wilson_interval(self.correct, self.judged)
        return {
            **asdict(self),
            "share": self.correct / self.judged if self.judged else None,
            "classified_share": self.classified / self.judged if self.judged else None,
            "interval_95": [low, high],
        }


@dataclass(frozen=True, slots=True)
class SampleResult:
    """One judged sample: its prompt, where it counts, and what was right."""

    prompt: str
    label: str
    held_out: bool
    correct: dict[str, bool | None]
    classified: dict[str, bool | None]
    judgement: Judgement

    @property
    def all_correct(self) -> bool:
        return self.judgement.all_correct


@dataclass(slots=True)
class EvaluationReport:
    """What the oracle says of a set of samples; `not_judged` counts prompts outside the world and missing outputs."""

    title: str = "all samples"
    samples: list[SampleResult] = field(default_factory=list)
    not_judged: list[str] = field(default_factory=list)

    def add(self, prompt: str, frames_THWC_u8: np.ndarray, label: str = "") -> SampleResult | None:
        """Judge one sample and count it; None (and `not_judged`) where the prompt is no prompt of the world."""
        scene = parse_prompt(prompt)
        if scene is None:
            self.not_judged.append(f"{label or prompt}: not a canonical prompt of the world")
            return None
        judgement = judge(frames_THWC_u8, prompt)
        result = SampleResult(
            prompt=prompt,
            label=label,
            held_out=scene.held_out,
            correct={name: judgement.holds(name) for name in ATTRIBUTES},
            classified=_classified(scene, judgement),
            judgement=judgement,
        )
        self.samples.append(result)
        return result

    def count(self, row: str, group: str = "both") -> Count:
        """The count of an attribute (or "all" at once) in a group: "trained", "held_out" or "both"."""
        count = Count()
        for each in self.samples:
            if group != "both" and each.held_out != (group == "held_out"):
                continue
            correct = each.all_correct if row == "all" else each.correct[row]
            classified = all(v is not False for v in each.classified.values()) if row == "all" else each.classified[row]
            if correct is not None:
                count.judged += 1
                count.correct += bool(correct)
                count.classified += bool(classified)
        return count

    def measures(self) -> dict[str, float | None]:
        """Means over all samples; displacement and texture contrast relative to the rendered ones."""
        displacement, contrast = [], []
        for each in self.samples:
            scene = parse_prompt(each.prompt)
            for spec, judged in zip(scene.objects if scene else (), each.judgement.objects, strict=True):
                if judged.seen is None:
                    continue
                if spec.motion in MOVES and judged.motion is not None:
                    along = np.dot(judged.seen.displacement, MOVES[spec.motion])
                    displacement.append(float(along) / MOVE_DISTANCE)
                if spec.texture != "none":
                    contrast.append(judged.seen.texture_contrast)
        one_blob = [each.judgement.num_blobs == len(each.judgement.objects) for each in self.samples]
        return {
            "displacement_of_nominal": _mean(displacement),
            "flicker": _mean([each.judgement.flicker for each in self.samples]),
            "one_blob_per_object": _mean([float(each) for each in one_blob]),
            "texture_contrast_of_nominal": _mean(contrast),
        }

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain JSON values."""
        return {
            "title": self.title,
            "num_samples": len(self.samples),
            "not_judged": self.not_judged,
            "attributes": {row: {group: self.count(row, group).as_dict() for group in GROUPS} for row in ROWS},
            "measures": self.measures(),
            "samples": [
                {
                    "label": each.label,
                    "prompt": each.prompt,
                    "held_out": each.held_out,
                    "all": each.all_correct,
                    "correct": each.correct,
                    "seen": {
                        "background": each.judgement.background_seen,
                        "objects": [asdict(judged.seen) if judged.seen else None for judged in each.judgement.objects],
                    },
                }
                for each in self.samples
            ],
        }

    def as_json(self) -> str:
        return json.dumps(self.as_dict(), indent=1)

    def as_markdown(self) -> str:
        """A table: attributes down, groups across, each as share, 95 % interval and count; then the other measures."""
        lines = [
            f"### {self.title}",
            "",
            "| attribute | trained triples | held-out triples | both | both, plain classification |",
            "|---|---|---|---|---|",
        ]
        for row in ROWS:
            cells = [_cell(self.count(row, group)) for group in GROUPS]
            both = self.count(row)
            plain = f"{100 * both.classified / both.judged:.1f} %" if both.judged else "–"
            lines.append(f"| {'all at once' if row == 'all' else row} | {' | '.join(cells)} | {plain} |")
        named = {
            "displacement_of_nominal": "mean displacement of moving objects, 1 = nominal",
            "texture_contrast_of_nominal": "mean texture contrast, 1 = rendered",
            "flicker": "mean background flicker, 0..255",
            "one_blob_per_object": "share of samples with one blob per object",
        }
        measures = self.measures()
        lines += ["", "; ".join(f"{text}: {measures[k]:.2f}" for k, text in named.items() if measures[k] is not None)]
        if self.not_judged:
            lines += ["", f"Not judged: {len(self.not_judged)}."]
        return "\n".join(lines) + "\n"


def score(samples: Iterable[tuple[str, np.ndarray]], title: str = "all samples") -> EvaluationReport:
    """Judge (prompt, uint8 THWC frames) pairs; T = 1 is a still image. Prompts outside the world are only counted."""
    report = EvaluationReport(title)
    for prompt, frames_THWC_u8 in samples:
        report.add(prompt, frames_THWC_u8)
    return report


def _classified(scene: SceneSpec, judgement: Judgement) -> dict[str, bool | None]:
    result: dict[str, bool | None] = {"background": judgement.background_seen == scene.background}
    for name in ATTRIBUTES[1:]:
        if judgement.holds(name) is None:
            result[name] = None
            continue
        result[name] = all(
            judged.seen is not None and getattr(judged.seen, name) == getattr(spec, name)
            for spec, judged in zip(scene.objects, judgement.objects, strict=True)
        )
    return result


def _cell(count: Count) -> str:
    if not count.judged:
        return "–"
    low, high = wilson_interval(count.correct, count.judged)
    return f"{100 * count.share:.1f} % ({100 * low:.0f}–{100 * high:.0f}), {count.correct}/{count.judged}"


def _mean(values: list[float]) -> float | None:
    return float(np.mean(values)) if values else None
