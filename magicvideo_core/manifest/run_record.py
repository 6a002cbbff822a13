"""`run.json`: what a run was asked to do, written once before any work and compared when it is continued."""

import json
import platform
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from magicvideo_core.clips import Clip, Shards
from magicvideo_core.config.models import RunConfig
from magicvideo_core.errors import RunError, UnreadableError
from magicvideo_core.manifest.layout import run_json_key
from magicvideo_core.manifest.schema import SCHEMA_VERSION
from magicvideo_core.storage import Storage

_PACKAGES = ("magicvideo", "torch", "diffusers", "transformers", "prefect", "ray", "av", "pyarrow", "numpy")


@dataclass(frozen=True, slots=True)
class RunRecord:
    """The content of `run.json`; `clips_hash` is over the set of clips, whatever their order or shards.

    `prompts_hash` is over the bytes of the prompt files: where it is the same, the plan need not be derived again.
    `forecast` is what the run was expected to take, as plain JSON values; None where nothing was known of its costs.
    """

    run_id: str
    config: RunConfig
    config_hash: str
    recipe_hashes: dict[str, str]
    prompts_source: str
    clips_hash: str
    num_clips: int
    num_shards: int
    created_at: str
    versions: dict[str, str]
    schema_version: int = SCHEMA_VERSION
    prompts_hash: str = ""
    forecast: dict[str, Any] | None = None


def new_run_record(
    run_id: str,
    config: RunConfig,
    recipe_hashes: dict[str, str],
    prompts_source: str,
    shards: Sequence[Iterable[Clip]],
    prompts_hash: str = "",
) -> RunRecord:
    """Return the record of a run about to start, stamped with the time and the versions of this process."""
    clips = (shards if isinstance(shards, Shards) else Shards.of(shards)).clips
    return RunRecord(
        run_id=run_id,
        config=config,
        config_hash=config.hash(),
        recipe_hashes=dict(recipe_hashes),
        prompts_source=_without_secrets(prompts_source),
        clips_hash=clips.hash(),
        num_clips=len(clips),
        num_shards=len(shards),
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        versions=_versions(),
        prompts_hash=prompts_hash,
    )


def write_run_json(storage: Storage, record: RunRecord) -> None:
    """Write the run record."""
    names = [name for name in RunRecord.__slots__ if name != "config"]
    values = {name: getattr(record, name) for name in names} | {"config": record.config.model_dump(mode="json")}
    storage.write(run_json_key(), (json.dumps(values, indent=2, ensure_ascii=False) + "\n").encode())


def read_run_json(storage: Storage) -> RunRecord:
    """Return the run record.

    Raises RunError where the place holds no run or one of another version, UnreadableError where the record is torn.
    """
    uri = storage.join(run_json_key())
    try:
        values: dict[str, Any] = json.loads(storage.read(run_json_key()))
    except (FileNotFoundError, NotADirectoryError):
        raise RunError(f"There is no run at {storage.uri}: {uri} does not exist.") from None
    except ValueError as error:
        raise UnreadableError(
            f"The run record {uri} is torn ({error}): give the `magicvideo generate` that started the run again, with "
            f"--run-id {storage.uri.rpartition('/')[2]}, which writes it anew."
        ) from None
    try:
        values["config"] = RunConfig.model_validate(values["config"])
        return RunRecord(**values)
    except (ValueError, KeyError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise RunError(
            f"The run record {uri} is not readable by this version ({reason}): use the version that started the run, "
            "or another --run-id."
        ) from None


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _without_secrets(uri: str) -> str:
    """Drop what may carry credentials from a URL: user, password and query."""
    if "://" not in uri:
        return uri
    parts = urlsplit(uri)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
