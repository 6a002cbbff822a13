"""Exports runs to a dataset: chosen and cut first, then written shard by shard, so that an interrupted export goes on.

{to}/
  _export/request.json        what is being written; only while it is
  _export/{shard}.json        the shard is whole; written after it
  train-00000.tar ...         WebDataset
  train/00000/{key}.mp4 ...   Hugging Face, and train/metadata.parquet
  verdicts.parquet            which clips were left out, and why
  README.md                   the dataset card
  dataset.json                written last: the dataset is whole
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import pyarrow as pa

from magicvideo_core.dataset.candidates import read_candidates
from magicvideo_core.dataset.card import dataset_card
from magicvideo_core.dataset.layouts import WRITERS, ShardRecord, write_metadata
from magicvideo_core.dataset.measurements import measure_run, stage_of
from magicvideo_core.dataset.request import ExportRequest
from magicvideo_core.dataset.samples import Shard, cut_shards, samples_of
from magicvideo_core.dataset.selection import Selection, select
from magicvideo_core.errors import ConfigError
from magicvideo_core.manifest.parquet import table_to_parquet
from magicvideo_core.manifest.run_record import RunRecord, read_run_json
from magicvideo_core.redact import redact
from magicvideo_core.storage import Storage, check_writable

# Raised where the same request gives other bytes than before: an export that was begun then is not continued.
EXPORT_VERSION = 1
_WORK = "_export"
_REQUEST, _DONE = f"{_WORK}/request.json", "dataset.json"


class Progress(Protocol):
    """Hears how much of which part of the work is done."""

    def __call__(self, done: int, total: int, part: str = "") -> None: ...


def _unheard(done: int, total: int, part: str = "") -> None:
    """Who does not ask hears nothing."""


@dataclass(frozen=True)
class ExportPlan:
    """An export before anything of it is written: its sources, what was chosen, and how that is cut."""

    request: ExportRequest
    sources: tuple[Storage, ...]
    runs: tuple[RunRecord, ...]
    stages: tuple[str, ...]
    selection: Selection
    shards: tuple[Shard, ...]

    def contents_hash(self) -> str:
        """Return the sha256 over keys and hashes of all samples: the same in every layout."""
        digest = hashlib.sha256()
        names = ["key", "split", "sha256", *(f"{stage}.sha256" for stage in self.request.include)]
        for row in zip(*(self.selection.kept[name].to_pylist() for name in names), strict=True):
            digest.update((json.dumps(row) + "\n").encode())
        return digest.hexdigest()

    def identity(self) -> dict[str, Any]:
        """Return what decides every byte of the dataset: two exports of one identity are the same."""
        return {
            "version": EXPORT_VERSION,
            "run_ids": [record.run_id for record in self.runs],
            "stages": list(self.stages),
            **self.request.same_dataset(),
            "contents": self.contents_hash(),
            "verdicts": self.selection.counts(),
        }

    def summary(self) -> dict[str, Any]:
        """Return the counts as plain JSON values."""
        splits: dict[str, Any] = {}
        for shard in self.shards:
            found = splits.setdefault(shard.split, {"num_samples": 0, "num_shards": 0})
            found["num_samples"] += shard.stop - shard.start
            found["num_shards"] += 1
        return {
            "num_clips": self.selection.verdicts.num_rows,
            "num_samples": self.selection.kept.num_rows,
            "verdicts": self.selection.counts(),
            "filtered": self.selection.filtered(),
            "splits": splits,
        }


def plan_export(request: ExportRequest, *, measure: bool = True, on_progress: Progress = _unheard) -> ExportPlan:
    """Choose the clips of an export. Writes nothing but, with `measure` and `request.measurements`, what was not measured yet.

    Raises RunError where there is no run, ConfigError where a filter does not fit or no clip is left.
    """
    sources = tuple(Storage(uri) for uri in request.runs)
    runs = tuple(read_run_json(storage) for storage in sources)
    if len({record.run_id for record in runs}) < len(runs):
        raise ConfigError(
            f"Runs {', '.join(record.run_id for record in runs)}: a run id is there twice; name each once."
        )
    stages = tuple(stage_of(record, request.stage or None) for record in runs)
    for record, stage in zip(runs, stages, strict=True):
        for part in request.include:
            if stage_of(record, part) == stage:
                raise ConfigError(f"Stage {part} is what is exported: leave it out of --include, or choose --stage.")
    if request.measurements and measure:
        for storage, record, stage in zip(sources, runs, stages, strict=True):
            measure_run(storage, stage, on_clip=partial(on_progress, part=f"measuring {record.run_id}"))
    candidates = read_candidates(sources, stages, request.include, with_facts=request.measurements)
    selection = select(candidates, request)
    if not selection.kept.num_rows:
        counts = ", ".join(f"{name} {count}" for name, count in selection.counts().items()) or "none has finished"
        raise ConfigError(f"No clip is left to export of {', '.join(map(redact, request.runs))}: {counts}.")
    return ExportPlan(request, sources, runs, stages, selection, tuple(cut_shards(selection.kept, request)))


def write_export(plan: ExportPlan, to: str, *, on_progress: Progress = _unheard) -> dict[str, Any]:
    """Write a planned export below the URI `to`, or what is missing of it; returns its summary as plain JSON values.

    Whatever interrupted it, the same export gives the same bytes. Raises ConfigError where another dataset, or anything
    else, is at the place, UpstreamLostError where an artifact is gone or changed.
    """
    target = Storage(to)
    check_writable(target.uri, "--to")
    identity = plan.identity()
    there = target.list_sizes()
    done = _found_there(target, there, identity)
    if _DONE not in there:
        target.write(_REQUEST, _json(identity))
    records: dict[str, ShardRecord] = {}
    for number, shard in enumerate(plan.shards):
        on_progress(number, len(plan.shards), "writing shards")
        record = done.get(shard.name) or _read_record(target, there, shard)
        if record is None or any(there.get(key) != each["size_bytes"] for key, each in record.objects.items()):
            samples = samples_of(plan.selection.kept, shard, plan.request)
            record = WRITERS[plan.request.format](target, shard, samples, plan.sources, there)
            target.write(_record_key(shard), _json(record.to_json()))
        records[shard.name] = record
    return _finish(plan, target, identity, records)


def export(
    request: ExportRequest, to: str, *, dry_run: bool = False, on_progress: Progress = _unheard
) -> dict[str, Any]:
    """Choose and write; with `dry_run` choose only, by what is measured already, and write nothing. Returns the summary."""
    plan = plan_export(request, measure=not dry_run, on_progress=on_progress)
    if not dry_run:
        return write_export(plan, to, on_progress=on_progress)
    return {"to": redact(Storage(to).uri), "format": request.format, "dry_run": True, **plan.summary()}


def _finish(
    plan: ExportPlan, target: Storage, identity: Mapping[str, Any], records: Mapping[str, ShardRecord]
) -> dict[str, Any]:
    """Write what is about the dataset as a whole, the marker last, and remove the traces of the work."""
    kept, request = plan.selection.kept, plan.request
    files: dict[str, Any] = {}
    if request.format == "huggingface":
        for stored in write_metadata(target, kept, plan.shards, request):
            key = stored.uri.removeprefix(target.uri).lstrip("/")
            files[key] = {"sha256": stored.sha256, "size_bytes": stored.size_bytes}
    else:
        files |= {key: each for record in records.values() for key, each in record.objects.items()}
    verdicts = target.write("verdicts.parquet", table_to_parquet(_with_shards(plan)))
    files["verdicts.parquet"] = {"sha256": verdicts.sha256, "size_bytes": verdicts.size_bytes}
    summary = plan.summary()
    for split, counts in summary["splits"].items():
        own = [record for shard, record in zip(plan.shards, records.values(), strict=True) if shard.split == split]
        counts["size_bytes"] = sum(record.size_bytes for record in own)
    card = dataset_card(plan.selection.kept, request, plan.runs, summary, files, identity["contents"])
    target.write("README.md", card.encode())
    document = {
        "identity": identity,
        **summary,
        "files": files,
        "shards": {name: record.to_json() for name, record in records.items()}
        if request.format == "webdataset"
        else {},
    }
    target.write(_DONE, _json(document))
    for key in target.list(_WORK):
        target.delete(key)
    return {"to": redact(target.uri), "format": request.format, **summary, "contents_sha256": identity["contents"]}


def _found_there(target: Storage, there: Mapping[str, int], identity: Mapping[str, Any]) -> dict[str, ShardRecord]:
    """Return the shards of the finished export at the place, {} where it is empty or the same export was begun there.

    Raises ConfigError where something else is.
    """
    where = redact(target.uri)
    marker = _DONE if _DONE in there else _REQUEST
    if marker not in there:
        if there:
            raise ConfigError(
                f"There is something at {where} already, {next(iter(there))}: choose an empty place by --to."
            )
        return {}
    try:
        document = json.loads(target.read(marker))
        found = document["identity"] if marker == _DONE else document
        shards = document["shards"] if marker == _DONE else {}
        records = {name: ShardRecord(**values) for name, values in shards.items()}
        differing = [name for name in identity if found.get(name) != identity[name]]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ConfigError(f"The export at {where} is damaged ({marker}): remove it, or choose another --to.") from None
    if differing:
        raise ConfigError(
            f"At {where} there is another export: it differs in {', '.join(differing)}; choose another --to."
        )
    return records


def _read_record(target: Storage, there: Mapping[str, int], shard: Shard) -> ShardRecord | None:
    key = _record_key(shard)
    if key not in there:
        return None
    try:
        return ShardRecord(**json.loads(target.read(key)))
    except (ValueError, TypeError):
        # Torn: the shard is written again.
        return None


def _with_shards(plan: ExportPlan) -> pa.Table:
    """Return the verdicts with the shard of each clip that is kept."""
    keys = [str(key) for key in plan.selection.kept["key"].to_pylist()]
    shard_of: dict[str, str] = {}
    for shard in plan.shards:
        shard_of |= dict.fromkeys(keys[shard.start : shard.stop], shard.name)
    verdicts = plan.selection.verdicts
    names = zip(verdicts["key"].to_pylist(), verdicts["verdict"].to_pylist(), strict=True)
    shards = [shard_of[str(key)] if verdict == "kept" else None for key, verdict in names]
    return verdicts.append_column("shard", pa.array(shards, pa.string()))


def _record_key(shard: Shard) -> str:
    return f"{_WORK}/{shard.name}.json"


def _json(document: Any) -> bytes:
    return (json.dumps(document, indent=2, ensure_ascii=False, sort_keys=True) + "\n").encode()
