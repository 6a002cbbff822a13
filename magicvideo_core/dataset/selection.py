"""Which clips an export takes: one verdict per clip, with its reason, from filters and a search for duplicates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from magicvideo_core.dataset.candidates import PART_COLUMNS, with_extra_columns
from magicvideo_core.dataset.expressions import parse_filter
from magicvideo_core.dataset.facts import THUMBNAIL_BYTES
from magicvideo_core.dataset.request import ExportRequest, parse_splits, split_of
from magicvideo_core.ids import short_hash

KEPT = "kept"
# In the order in which they are given: a clip has the first that fits.
VERDICTS = ("failed", "quarantined", "skipped", "incomplete", "filtered", "duplicate", "near_duplicate", KEPT)
VERDICT_SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("clip_id", "run_id", "stage", "sha256", "verdict", "reason", "key", "split")]
)


@dataclass(frozen=True)
class Selection:
    """The clips that are kept, with the columns of `candidates` and `key` and `split`, by split and key; and all verdicts.

    `verdicts` has a row for each candidate, `VERDICT_SCHEMA`. Keys name samples: the clip's id, and something of its
    run's after it where several runs bring the same clip.
    """

    kept: pa.Table
    verdicts: pa.Table

    def counts(self) -> dict[str, int]:
        """Return how many clips got each verdict, in the order of `VERDICTS`, without those that nobody got."""
        found = Counter[str](_list(self.verdicts, "verdict"))
        return {name: found[name] for name in VERDICTS if found[name]}

    def filtered(self) -> dict[str, int]:
        """Return how many clips each filter left out that those before it had kept."""
        said = zip(_list(self.verdicts, "verdict"), _list(self.verdicts, "reason"), strict=True)
        return dict(Counter[str](reason for verdict, reason in said if verdict == "filtered"))


def select(candidates: pa.Table, request: ExportRequest) -> Selection:
    """Give a verdict to each candidate, in the order of the table, which decides which of two duplicates is kept.

    Raises ConfigError where a filter does not fit the columns.
    """
    statuses = _list(candidates, "status")
    verdicts: list[str | None] = [None if status == "succeeded" else status for status in statuses]
    # What the row says of a clip that did not succeed.
    reasons: list[str | None] = _list(candidates, "error_type")

    def reject(verdict: str, found: Sequence[tuple[int, str]]) -> None:
        for index, reason in found:
            verdicts[index], reasons[index] = verdict, reason

    def remaining() -> list[int]:
        return [index for index, verdict in enumerate(verdicts) if verdict is None]

    # 1. Every part that a sample is to have.
    for stage in request.include:
        absent = pc.is_null(candidates[f"{stage}.sha256"]).to_pylist()
        reject("incomplete", [(index, f"no artifact in stage {stage}") for index in remaining() if absent[index]])
    # 2. The filters, each as if it came after those before it.
    filters = [parse_filter(text) for text in request.where]
    columns = with_extra_columns(candidates, filters)
    for each in filters:
        holds = each.mask(columns).to_pylist()
        reject("filtered", [(index, each.text) for index in remaining() if not holds[index]])
    # 3. Duplicates of what is left: of each kind the first stays.
    keys = _keys(candidates)
    if request.dedupe != "none":
        reject(
            "duplicate", _repeated(remaining(), keys, _list(candidates, "sha256"), lambda key: f"same bytes as {key}")
        )
        reject("duplicate", _repeated(remaining(), keys, _origins(candidates), lambda key: f"made as {key} was"))
    if request.dedupe == "near":
        reject("near_duplicate", _near(remaining(), keys, _list(candidates, "thumbnails"), request.near_distance))

    shares = parse_splits(request.splits)
    identities = _list(candidates, "clip_id" if request.split_by == "clip" else "prompt")
    kept = remaining()
    splits: list[str | None] = [None] * len(verdicts)
    for index in kept:
        verdicts[index], splits[index] = KEPT, split_of(identities[index], shares)
    whole = candidates.append_column("key", pa.array(keys, pa.string())).append_column(
        "split", pa.array(splits, pa.string())
    )
    order = {name: place for place, name in enumerate(shares)}
    kept.sort(key=lambda index: (order[splits[index] or ""], keys[index]))
    said = whole.append_column("verdict", pa.array(verdicts, pa.string())).append_column(
        "reason", pa.array(reasons, pa.string())
    )
    return Selection(whole.take(pa.array(kept, pa.int64())), said.select(VERDICT_SCHEMA.names).cast(VERDICT_SCHEMA))


def parts_of(sample: Mapping[str, Any], include: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return the artifacts of the included stages of a kept sample: `PART_COLUMNS` by stage."""
    return {stage: {name: sample[f"{stage}.{name}"] for name in PART_COLUMNS} for stage in include}


def _keys(candidates: pa.Table) -> list[str]:
    """Return the name of each candidate: unique, and the clip's id wherever that is."""
    clip_ids, run_ids = _list(candidates, "clip_id"), _list(candidates, "run_id")
    times = Counter[str](clip_ids)
    return [
        clip_id if times[clip_id] == 1 else f"{clip_id}-{short_hash(run_id)[:8]}"
        for clip_id, run_id in zip(clip_ids, run_ids, strict=True)
    ]


def _origins(candidates: pa.Table) -> list[Any]:
    """Return what a clip was made from by which recipe; None where an image or a video that it was given decides too."""
    names = ("prompt", "negative_prompt", "seed", "recipe_hash")
    made = zip(*(_list(candidates, name) for name in names), strict=True)
    given = zip(_list(candidates, "image"), _list(candidates, "video"), strict=True)
    return [None if any(media) or None in origin else origin for origin, media in zip(made, given, strict=True)]


def _repeated(
    indices: Sequence[int], keys: Sequence[str], values: Sequence[Any], say: Callable[[str], str]
) -> list[tuple[int, str]]:
    first: dict[Any, int] = {}
    found = []
    for index in indices:
        if values[index] is None:
            continue
        before = first.setdefault(values[index], index)
        if before != index:
            found.append((index, say(keys[before])))
    return found


def _near(
    indices: Sequence[int], keys: Sequence[str], thumbnails: Sequence[bytes | None], distance: float
) -> list[tuple[int, str]]:
    """Return the clips that look like one that is kept before them; what has no thumbnails looks like nothing."""
    with_one = [index for index in indices if thumbnails[index] is not None]
    if not with_one:
        return []
    pixels = np.frombuffer(b"".join(thumbnails[index] or b"" for index in with_one), np.uint8)
    levels_ND = pixels.reshape(-1, THUMBNAIL_BYTES).astype(np.float32)
    # Two clips differ by no less than their means do: only neighbours in this order can be alike.
    means_N = levels_ND.mean(axis=1)
    order = np.argsort(means_N, kind="stable")
    ends = np.searchsorted(means_N[order], means_N[order] + distance + 1e-3, side="right")
    alike: dict[int, list[int]] = {}
    for place, end in enumerate(ends.tolist()):
        others = order[place + 1 : end]
        own = int(order[place])
        differences = np.abs(levels_ND[others] - levels_ND[own]).mean(axis=1)
        for other in others[differences <= distance].tolist():
            alike.setdefault(own, []).append(other)
            alike.setdefault(other, []).append(own)
    found = []
    dropped: set[int] = set()
    for own, index in enumerate(with_one):
        before = [other for other in alike.get(own, ()) if other < own and other not in dropped]
        if before:
            dropped.add(own)
            found.append((index, f"looks like {keys[with_one[min(before)]]}"))
    return found


def _list(table: pa.Table, name: str) -> list[Any]:
    values: list[Any] = table[name].to_pylist()
    return values
