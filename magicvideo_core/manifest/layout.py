"""The keys of a run's objects, relative to the run's URI; the only place that spells them."""

import re
from dataclasses import dataclass

from magicvideo_core.errors import InputError

MANIFESTS = "manifests"
JOURNAL = "journal"
SESSIONS = f"{JOURNAL}/sessions"
STRIPS = "report/strips"
_MANIFEST = re.compile(r"^manifests/([^/]+)/shard-(\d{5,})\.attempt-(\d{3,})\.parquet$")
_SESSION = re.compile(r"^journal/sessions/(\d{5,})\.json$")
_STRIP = re.compile(r"^report/strips/([^/]+)\.([0-9a-f]{16})\.webp$")
_RECORD = re.compile(r"^journal/([^/]+)/shard-(\d{5,})/attempt-(\d{3,})/([^/]+)\.json$")
_LOG = re.compile(r"logs/[^/]+\.jsonl(\.\d+)?")
_PLAN = re.compile(r"^plan/shard-(\d{5,})\.parquet$")
_MEASUREMENTS = re.compile(r"^measurements/([^/]+)/shard-(\d{5,})\.parquet$")
# What may stand in a run id: it becomes one folder on any storage.
RUN_ID_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}"
_RUN_ID = re.compile(RUN_ID_PATTERN)


def check_run_id(run_id: str) -> str:
    """Return `run_id`, or raise InputError where it cannot name a folder on every storage."""
    if not _RUN_ID.fullmatch(run_id):
        raise InputError(
            f"Run id {run_id!r} is not allowed: use up to 100 letters, digits, dots, dashes and underscores."
        )
    return run_id


def run_json_key() -> str:
    """Return the key of the run record."""
    return "run.json"


def report_key() -> str:
    """Return the key of the report's page."""
    return "report/index.html"


def strip_key(clip_id: str, digest: str) -> str:
    """Return the key of the report's picture of a clip's stages; `digest` is over what it shows."""
    return f"{STRIPS}/{clip_id}.{digest}.webp"


def is_strip_key(key: str) -> bool:
    """Tell whether an object is one of the report's pictures."""
    return _STRIP.match(key) is not None


def log_key(name: str) -> str:
    """Return the key of one process's log."""
    return f"logs/{name}.jsonl"


def is_log_key(key: str) -> bool:
    """Tell whether a key is that of a process's log, or of what it wrote before."""
    return _LOG.fullmatch(key) is not None


def plan_key(shard_id: int) -> str:
    """Return the key of one shard's plan."""
    return f"plan/shard-{shard_id:05d}.parquet"


def artifact_key(stage: str, clip_id: str, sha256: str, suffix: str) -> str:
    """Return the key of an artifact; the hash in it keeps different bytes under different keys."""
    return f"artifacts/{stage}/{clip_id}.{sha256[:16]}{suffix}"


def journal_prefix(stage: str, shard_id: int) -> str:
    """Return the folder of one stage's records of one shard."""
    return f"{JOURNAL}/{stage}/shard-{shard_id:05d}"


def journal_key(stage: str, shard_id: int, attempt: int, clip_id: str) -> str:
    """Return the key of one journal record."""
    return f"{journal_prefix(stage, shard_id)}/attempt-{attempt:03d}/{clip_id}.json"


def manifest_key(stage: str, shard_id: int, attempt: int) -> str:
    """Return the key of one manifest."""
    return f"{MANIFESTS}/{stage}/shard-{shard_id:05d}.attempt-{attempt:03d}.parquet"


def manifest_name_prefix(shard_id: int) -> str:
    """Return what the names of a shard's manifests, of any attempt, begin with."""
    return f"shard-{shard_id:05d}."


def measurements_key(stage: str, shard_id: int) -> str:
    """Return the key of what was measured of one shard in one stage."""
    return f"measurements/{stage}/shard-{shard_id:05d}.parquet"


def parse_measurements_key(key: str) -> tuple[str, int] | None:
    """Return stage and shard id of a key of measurements, None of another object's."""
    match = _MEASUREMENTS.match(key)
    return (match[1], int(match[2])) if match else None


def session_key(number: int) -> str:
    """Return the key of one session, numbered from 1."""
    return f"{SESSIONS}/{number:05d}.json"


def parse_session_key(key: str) -> int | None:
    """Return the number of a session's key, None of another object's."""
    match = _SESSION.search(key)
    return int(match[1]) if match else None


@dataclass(frozen=True, slots=True)
class RecordKey:
    """The key of a manifest, or of one clip's journal record, and what it says."""

    key: str
    stage: str
    shard_id: int
    attempt: int
    clip_id: str = ""

    @property
    def shard(self) -> tuple[str, int]:
        """The stage and the shard."""
        return self.stage, self.shard_id


def parse_manifest_key(key: str) -> RecordKey | None:
    """Return what a manifest's key says, None of another object's."""
    match = _MANIFEST.match(key)
    return RecordKey(key, match[1], int(match[2]), int(match[3])) if match else None


def parse_journal_key(key: str) -> RecordKey | None:
    """Return what a journal record's key says, None of another object's."""
    match = _RECORD.match(key)
    return RecordKey(key, match[1], int(match[2]), int(match[3]), match[4]) if match else None


def parse_plan_key(key: str) -> int | None:
    """Return the shard id of a plan's key, None of another object's."""
    match = _PLAN.search(key)
    return int(match[1]) if match else None
