"""The dataset card: README.md with the front matter that Hugging Face reads, and what a person asks of a dataset."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from magicvideo_core.config.models import StageConfig
from magicvideo_core.config.weights import references
from magicvideo_core.dataset.licences import weights_of
from magicvideo_core.dataset.measurements import NUMBERS, VERDICTS
from magicvideo_core.dataset.request import ExportRequest
from magicvideo_core.manifest.run_record import RunRecord

_NUM_EXAMPLES = 10
# Who reads one hash of thousands? dataset.json has them all.
_MOST_FILES = 50
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
# About where a run computes, nothing about what it made.
_NOT_SETTINGS = {"pool", "gate", "fake", "weights", "revision", "backend"}


def dataset_card(
    kept: pa.Table,
    request: ExportRequest,
    runs: Sequence[RunRecord],
    summary: Mapping[str, Any],
    files: Mapping[str, Mapping[str, Any]],
    contents_hash: str,
) -> str:
    """Return the card as Markdown; the same dataset has the same card wherever it lies."""
    is_video = kept["num_frames"].to_pylist()[0] != 1
    parts = [
        _front_matter(request, summary, is_video),
        f"# {'Videos' if is_video else 'Images'} of {', '.join(record.run_id for record in runs)}\n",
        "Made by MagicVideo (text to image to video): prompts in, videos and a complete record out.\n",
        _counts(kept, summary),
        _choice(request, summary),
        _prompts(kept),
        *(_run(record) for record in runs),
        _facts(kept) if request.measurements else "",
        _hashes(files, contents_hash),
        _reading(request, summary),
    ]
    return "\n".join(part for part in parts if part)


def _front_matter(request: ExportRequest, summary: Mapping[str, Any], is_video: bool) -> str:
    size = next((name for bound, name in _SIZES if summary["num_samples"] < bound), "n>1M")
    lines = ["---", "pretty_name: MagicVideo export", f"license: {json.dumps(request.license or 'unknown')}"]
    lines += [
        "task_categories:",
        f"- text-to-{'video' if is_video else 'image'}",
        "tags:",
        "- synthetic",
        "- magicvideo",
    ]
    lines += ["size_categories:", f"- {size}", "configs:", "- config_name: default", "  data_files:"]
    for split in summary["splits"]:
        # Only these: the table of verdicts beside them is no split.
        path = f"{split}-*.tar" if request.format == "webdataset" else f"{split}/**"
        lines += [f"  - split: {split}", f"    path: {json.dumps(path)}"]
    return "\n".join([*lines, "---", ""])


def _counts(kept: pa.Table, summary: Mapping[str, Any]) -> str:
    rows = [
        [name, counts["num_samples"], counts["num_shards"], f"{counts['size_bytes']:,}"]
        for name, counts in summary["splits"].items()
    ]
    frames = [value or 0 for value in kept["num_frames"].to_pylist()]
    seconds = sum(count / fps for count, fps in zip(frames, kept["fps"].to_pylist(), strict=True) if fps)
    shapes = {
        f"{width}x{height}" for width, height in zip(*(kept[n].to_pylist() for n in ("width", "height")), strict=True)
    }
    text = f"{sum(frames):,} frames, {seconds:,.0f} seconds; sizes {', '.join(sorted(shapes)[:5])}.\n"
    return f"## Counts\n\n{_table(['split', 'samples', 'shards', 'bytes'], rows)}\n{text}"


def _choice(request: ExportRequest, summary: Mapping[str, Any]) -> str:
    rows = [[name, count] for name, count in summary["verdicts"].items()]
    lines = [f"## How they were chosen\n\n{_table(['verdict', 'clips'], rows)}"]
    lines += [f"- filter `{_plain(text)}` left out {count}" for text, count in summary["filtered"].items()]
    alike = f", and thumbnails within {request.near_distance:g} levels" if request.dedupe == "near" else ""
    if request.dedupe != "none":
        lines.append(f"- duplicates are left out: the same prompt, settings and seed, the same bytes{alike}")
    lines.append(
        f"- splits `{request.splits}`, by a hash of each {'clip id' if request.split_by == 'clip' else 'prompt'}"
    )
    lines.append("- `verdicts.parquet` has the verdict on every clip, and its reason")
    return "\n".join(lines) + "\n"


def _prompts(kept: pa.Table) -> str:
    prompts = sorted(str(prompt) for prompt in kept["prompt"].unique().to_pylist())
    lines = [f"- {_plain(prompt)}" for prompt in prompts[:_NUM_EXAMPLES]]
    more = f"\nand {len(prompts) - _NUM_EXAMPLES:,} more.\n" if len(prompts) > _NUM_EXAMPLES else "\n"
    return f"## Prompts\n\n{len(prompts):,} different ones:\n\n" + "\n".join(lines) + "\n" + more


def _run(record: RunRecord) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in record.versions.items())
    lines = [
        f"## Run {record.run_id}\n",
        f"Begun {record.created_at}, {record.num_clips:,} clips; preset `{record.config.preset}`, configuration "
        f"`{record.config_hash}`, seed {record.config.seed}. {versions}.\n",
    ]
    rows = []
    for stage in record.config.stages:
        config = record.config.stage(stage)
        rows.append([stage, config.backend, f"`{record.recipe_hashes.get(stage, '')}`", _settings(config)])
    lines.append(_table(["stage", "backend", "recipe", "settings"], rows))
    found: dict[tuple[str, str, str], list[str]] = {}
    for stage in record.config.stages:
        for name, reference, licence in weights_of(record.config.stage(stage)):
            found.setdefault((stage, reference, licence), []).append(name)
    used = [[stage, _plain(what), _plain(licence), ", ".join(names)] for (stage, what, licence), names in found.items()]
    note = "Licences to our knowledge; each model card decides.\n"
    lines.append(
        _table(["stage", "weights", "licence", "as"], used) + f"\n{note}"
        if used
        else "No weights: every stage is fake.\n"
    )
    return "\n".join(lines)


def _settings(config: StageConfig) -> str:
    values = config.model_dump(mode="json", exclude=_NOT_SETTINGS | set(references(config)))
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _facts(kept: pa.Table) -> str:
    rows = []
    for name in NUMBERS:
        values = [value for value in kept[name].to_pylist() if value is not None]
        if values:
            rows.append([name, *(f"{value:.4g}" for value in (min(values), statistics.median(values), max(values)))])
    lines = [f"## Measured\n\n{_table(['measure', 'least', 'median', 'most'], rows)}"]
    for name in VERDICTS:
        values = [value for value in kept[name].to_pylist() if value is not None]
        if values:
            lines.append(f"- `{name}`: {sum(values):,} of {len(values):,}")
    return "\n".join(lines) + "\n"


def _hashes(files: Mapping[str, Mapping[str, Any]], contents_hash: str) -> str:
    rows = [[f"`{key}`", each["size_bytes"], f"`{each['sha256']}`"] for key, each in files.items()]
    more = f"\n{len(rows) - _MOST_FILES:,} more are in `dataset.json`.\n" if len(rows) > _MOST_FILES else ""
    text = f"All samples together (keys, splits and the sha256 of each): `{contents_hash}`.\n"
    return f"## Hashes (sha256)\n\n{text}\n{_table(['file', 'bytes', 'sha256'], rows[:_MOST_FILES])}{more}"


def _reading(request: ExportRequest, summary: Mapping[str, Any]) -> str:
    split, counts = next(iter(summary["splits"].items()))
    if request.format == "webdataset":
        last = f"{split}-{{00000..{counts['num_shards'] - 1:05d}}}.tar"
        code = f'import webdataset\n\nfor sample in webdataset.WebDataset("{last}", shardshuffle=False):\n    ...'
    else:
        code = f'from datasets import load_dataset\n\nsamples = load_dataset("PATH", split="{split}")'
    return f"## Reading it\n\n```python\n{code}\n```\n"


def _table(titles: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [titles, ["---"] * len(titles), *rows]
    return "".join("| " + " | ".join(map(str, line)) + " |\n" for line in lines)


def _plain(text: str) -> str:
    """Return a text as one line that is no Markdown and no HTML."""
    line = " ".join(text.split()).replace("`", "'").replace("&", "&amp;").replace("<", "&lt;").replace("|", "&#124;")
    return line if len(line) <= 200 else f"{line[:199]}…"
