"""Proves that manifests and bucket say the same: every artifact hashed again, every object accounted for."""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

from magicvideo_core.errors import UnreadableError
from magicvideo_core.ids import STAGES
from magicvideo_core.manifest.artifacts import artifact_key_of
from magicvideo_core.manifest.durable import read_rows
from magicvideo_core.manifest.journal import list_records, read_records
from magicvideo_core.manifest.layout import (
    is_log_key,
    is_strip_key,
    parse_journal_key,
    parse_manifest_key,
    parse_measurements_key,
    parse_plan_key,
    parse_session_key,
    plan_key,
    report_key,
    run_json_key,
)
from magicvideo_core.manifest.plan import list_shards, read_plan
from magicvideo_core.manifest.run_record import RunRecord, read_run_json
from magicvideo_core.manifest.schema import ManifestRow
from magicvideo_core.manifest.table import list_manifests, read_manifest
from magicvideo_core.storage import Storage

# Hashing waits for storage: more readers than cores, and few enough that their objects fit into memory.
_NUM_READERS = 8
_EVALUATION = re.compile(rf"report/evaluation-({'|'.join(STAGES)}|bicubic|all)\.(md|json|svg)")


@dataclass(frozen=True, slots=True)
class Difference:
    """An object whose bytes are not those that its row names; sizes in bytes."""

    key: str
    expected_size_bytes: int | None
    found_size_bytes: int
    expected_sha256: str | None
    found_sha256: str


@dataclass(frozen=True, slots=True)
class Audit:
    """What does not fit in a run; every list is sorted and empty where all is well.

    missing      keys of artifacts that a clip's latest row names and that are not there
    different    artifacts with other bytes than a row of any attempt says: truncated, or changed
    extra        keys of objects that belong to nothing
    unreadable   plans and manifests that are torn or damaged, and why
    without_row  planned (stage, clip id) pairs without a terminal row: not finished, or lost
    unplanned    (stage, clip id) pairs with a row that no plan asks for
    doubled      (stage, clip id, attempt) that more than one row stands for
    """

    run_uri: str
    num_artifacts: int
    num_bytes: int
    missing: tuple[str, ...]
    different: tuple[Difference, ...]
    extra: tuple[str, ...]
    unreadable: tuple[str, ...]
    without_row: tuple[tuple[str, str], ...]
    unplanned: tuple[tuple[str, str], ...]
    doubled: tuple[tuple[str, str, int], ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        problems = (self.missing, self.different, self.extra, self.unreadable, self.without_row)
        return not any((*problems, self.unplanned, self.doubled))

    def to_json(self) -> dict[str, Any]:
        """Return the audit as plain JSON values."""
        return {"ok": self.ok, **asdict(self)}

    def lines(self) -> list[str]:
        """Return one line per problem, for people."""
        return [
            *(f"missing: {key}" for key in self.missing),
            *(f"different: {_describe(difference)}" for difference in self.different),
            *(f"extra: {key}" for key in self.extra),
            *(f"unreadable: {what}" for what in self.unreadable),
            *(f"without a row: clip {clip_id} in stage {stage}" for stage, clip_id in self.without_row),
            *(f"not planned: clip {clip_id} in stage {stage}" for stage, clip_id in self.unplanned),
            *(
                f"doubled: clip {clip_id} in stage {stage}, attempt {attempt}"
                for stage, clip_id, attempt in self.doubled
            ),
        ]


def audit_run(storage: Storage) -> Audit:
    """Compare a run's manifests, plan and journal with what lies in storage; reads every artifact once.

    Raises RunError where there is no readable run.
    """
    record = read_run_json(storage)
    # One listing, taken first: what a driver adds meanwhile is not yet asked for.
    sizes = storage.list_sizes()
    planned, unreadable = _read_plan(storage, record)
    rows, torn = _read_all_rows(storage)
    latest = read_rows(storage, record.config.stages)
    terminal = {(row.stage, row.clip_id) for row in latest}
    expected = {key: row for row in rows if (key := artifact_key_of(row)) is not None}
    needed = {key for row in latest if (key := artifact_key_of(row)) is not None}
    present = sorted(expected.keys() & sizes.keys())
    hashes = dict(_hash_all(storage, present))
    wanted = {(stage, clip_id) for stage in record.config.stages for clip_id in planned}
    attempts = Counter((row.stage, row.clip_id, row.attempt) for row in rows)
    return Audit(
        run_uri=storage.uri,
        num_artifacts=len(present),
        num_bytes=sum(sizes[key] for key in present),
        missing=tuple(sorted(key for key in needed if hashes.get(key) is None)),
        different=tuple(found for key in present if (found := _difference(expected[key], key, hashes[key]))),
        extra=tuple(key for key in sizes if key not in expected and not _belongs(key, record)),
        unreadable=tuple(unreadable + torn),
        without_row=tuple(sorted(wanted - terminal, key=_by_stage)),
        unplanned=tuple(sorted(terminal - wanted, key=_by_stage)) if not unreadable else (),
        doubled=tuple(sorted(attempt for attempt, count in attempts.items() if count > 1)),
    )


def _read_plan(storage: Storage, record: RunRecord) -> tuple[set[str], list[str]]:
    """Return the planned clip ids, and what of the plan is missing or torn."""
    clip_ids: set[str] = set()
    problems = []
    there = set(list_shards(storage))
    for shard_id in range(record.num_shards):
        if shard_id not in there:
            problems.append(f"{storage.join(plan_key(shard_id))}: not there")
            continue
        try:
            clip_ids.update(read_plan(storage, shard_id).ids())
        except UnreadableError as error:
            problems.append(str(error))
    return clip_ids, problems


def _read_all_rows(storage: Storage) -> tuple[list[ManifestRow], list[str]]:
    """Return the rows of every attempt and of the journal, and which manifests are torn."""
    rows: list[ManifestRow] = []
    problems = []
    records = list_records(storage)
    manifests = list_manifests(storage)
    for key in manifests:
        try:
            rows += read_manifest(storage, key)
        except UnreadableError as error:
            problems.append(str(error))
    repeated = {(row.stage, row.clip_id, row.attempt) for row in rows}
    journal = read_records(storage, records)
    return rows + [row for row in journal if (row.stage, row.clip_id, row.attempt) not in repeated], problems


def _hash_all(storage: Storage, keys: Sequence[str]) -> Iterable[tuple[str, tuple[int, str] | None]]:
    """Give (key, (size in bytes, sha256)) of objects, (key, None) of those that are gone."""

    def hash_one(key: str) -> tuple[str, tuple[int, str] | None]:
        try:
            data = storage.read(key)
        except FileNotFoundError:
            return key, None
        return key, (len(data), hashlib.sha256(data).hexdigest())

    with ThreadPoolExecutor(_NUM_READERS) as executor:
        yield from executor.map(hash_one, keys)


def _difference(row: ManifestRow, key: str, found: tuple[int, str] | None) -> Difference | None:
    if found is None or found == (row.size_bytes, row.sha256):
        return None
    return Difference(key, row.size_bytes, found[0], row.sha256, found[1])


def _belongs(key: str, record: RunRecord) -> bool:
    """Tell whether an object that is no artifact has its place in the run."""
    if key in (run_json_key(), report_key()) or is_strip_key(key) or _EVALUATION.fullmatch(key):
        return True
    if parse_session_key(key) is not None:
        return True
    if is_log_key(key):
        return True
    shard_id = parse_plan_key(key)
    if shard_id is not None:
        return shard_id < record.num_shards
    if (measured := parse_measurements_key(key)) is not None:
        return measured[0] in record.config.stages and measured[1] < record.num_shards
    found = parse_manifest_key(key) or parse_journal_key(key)
    return found is not None and found.stage in record.config.stages and found.shard_id < record.num_shards


def _by_stage(pair: tuple[str, str]) -> tuple[int, str]:
    return STAGES.index(pair[0]), pair[1]


def _describe(difference: Difference) -> str:
    if difference.found_size_bytes != difference.expected_size_bytes:
        what = f"{difference.found_size_bytes} bytes instead of {difference.expected_size_bytes}, "
    else:
        what = f"{difference.found_size_bytes} bytes as expected, "
    found, expected = difference.found_sha256[:16], (difference.expected_sha256 or "")[:16]
    return f"{difference.key}: {what}sha256 {found}... instead of {expected}..."
