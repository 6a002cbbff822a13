"""Scores samples with the oracle: shares per attribute and means of measures, in groups, with their intervals."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from magicvideo_core.evaluation.intervals import Estimate, mean_estimate, wilson_interval
from magicvideo_core.evaluation.measures import MEASURES, measure_sample
from magicvideo_core.moving_shapes.oracle import ATTRIBUTES, Judgement, judge
from magicvideo_core.moving_shapes.world import SceneSpec, parse_prompt

GROUPS = ("trained", "held_out", "both")
ROWS = (*ATTRIBUTES, "all")


@dataclass(slots=True)
class Count:
    """How often one attribute was right: strictly (good enough too), and by plain classification over its values."""

    judged: int = 0
    correct: int = 0
    classified: int = 0

    @property
    def share(self) -> float:
        return self.correct / self.judged if self.judged else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """The Wilson interval of the share at 95 %."""
        return wilson_interval(self.correct, self.judged)

    def as_dict(self) -> dict[str, Any]:
        return {
            **asdict(self),
            "share": self.correct / self.judged if self.judged else None,
            "classified_share": self.classified / self.judged if self.judged else None,
            "interval_95": list(self.interval),
        }


@dataclass(frozen=True, slots=True)
class SampleResult:
    """One judged sample: its prompt, where it counts, what was right, and what was measured (names of MEASURES)."""

    prompt: str
    label: str
    held_out: bool
    correct: dict[str, bool | None]
    classified: dict[str, bool | None]
    judgement: Judgement
    measures: dict[str, float]

    @property
    def all_correct(self) -> bool:
        return self.judgement.all_correct

    @property
    def num_objects(self) -> int:
        return len(self.judgement.objects)

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain JSON values."""
        return {
            "label": self.label,
            "prompt": self.prompt,
            "held_out": self.held_out,
            "all": self.all_correct,
            "correct": self.correct,
            "measures": self.measures,
            "seen": {
                "background": self.judgement.background_seen,
                "objects": [asdict(judged.seen) if judged.seen else None for judged in self.judgement.objects],
            },
        }


def judge_sample(
    prompt: str, frames_THWC_u8: np.ndarray, label: str = "", reference_HWC_u8: np.ndarray | None = None
) -> SampleResult | None:
    """Judge and measure one sample (T = 1 is a still image); None where the prompt is no prompt of the world."""
    scene = parse_prompt(prompt)
    if scene is None:
        return None
    judgement = judge(frames_THWC_u8, prompt)
    return SampleResult(
        prompt=prompt,
        label=label,
        held_out=scene.held_out,
        correct={name: judgement.holds(name) for name in ATTRIBUTES},
        classified=_classified(scene, judgement),
        judgement=judgement,
        measures=measure_sample(scene, judgement, frames_THWC_u8, reference_HWC_u8),
    )


@dataclass(slots=True)
class EvaluationReport:
    """What the oracle says of a set of samples; `not_judged` counts prompts outside the world and missing outputs."""

    title: str = "all samples"
    samples: list[SampleResult] = field(default_factory=list)
    not_judged: list[str] = field(default_factory=list)

    def add(
        self, prompt: str, frames_THWC_u8: np.ndarray, label: str = "", reference_HWC_u8: np.ndarray | None = None
    ) -> SampleResult | None:
        """Judge one sample and count it; None (and `not_judged`) where the prompt is no prompt of the world."""
        result = judge_sample(prompt, frames_THWC_u8, label, reference_HWC_u8)
        if result is None:
            self.not_judged.append(f"{label or prompt}: not a canonical prompt of the world")
        else:
            self.samples.append(result)
        return result

    @property
    def object_counts(self) -> list[int]:
        """How many objects the samples have: [1], [2] or [1, 2]."""
        return sorted({each.num_objects for each in self.samples})

    def count(self, row: str, group: str = "both", num_objects: int | None = None) -> Count:
        """The count of an attribute (or "all" at once) in a group: "trained", "held_out" or "both".

        With `num_objects` only samples with that many objects are counted.
        """
        count = Count()
        for each in self._chosen(group, num_objects):
            correct = each.all_correct if row == "all" else each.correct[row]
            classified = all(v is not False for v in each.classified.values()) if row == "all" else each.classified[row]
            if correct is not None:
                count.judged += 1
                count.correct += bool(correct)
                count.classified += bool(classified)
        return count

    def measure(self, name: str, group: str = "both", num_objects: int | None = None) -> Estimate | None:
        """The mean of one of the MEASURES over the samples that it applies to; None where there are none."""
        chosen = self._chosen(group, num_objects)
        return mean_estimate([each.measures[name] for each in chosen if name in each.measures])

    def measures(self, num_objects: int | None = None) -> dict[str, float | None]:
        """Means over all samples, by the names in MEASURES; None where nothing applies."""
        estimates = {name: self.measure(name, num_objects=num_objects) for name in MEASURES}
        return {name: estimate.value if estimate else None for name, estimate in estimates.items()}

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain JSON values: all samples together, then by the number of objects, then one by one."""
        return {
            "title": self.title,
            "num_samples": len(self.samples),
            "not_judged": self.not_judged,
            **self._figures(None),
            "objects": {str(count): self._figures(count) for count in self.object_counts},
            "samples": [each.as_dict() for each in self.samples],
        }

    def as_json(self) -> str:
        return json.dumps(self.as_dict(), indent=1)

    def _figures(self, num_objects: int | None) -> dict[str, Any]:
        estimates = {name: self.measure(name, num_objects=num_objects) for name in MEASURES}
        return {
            "attributes": {
                row: {group: self.count(row, group, num_objects).as_dict() for group in GROUPS} for row in ROWS
            },
            "measures": {name: estimate.value if estimate else None for name, estimate in estimates.items()},
            "measure_intervals_95": {
                name: [each.low, each.high, each.count] for name, each in estimates.items() if each
            },
        }

    def _chosen(self, group: str, num_objects: int | None) -> Iterator[SampleResult]:
        for each in self.samples:
            if group in ("both", "held_out" if each.held_out else "trained") and num_objects in (
                None,
                each.num_objects,
            ):
                yield each


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
