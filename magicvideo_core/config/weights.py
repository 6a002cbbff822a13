"""Weights references: what `weights = ...` names, where that lies on this machine, and its digest."""

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from magicvideo_core.config.models import StageConfig
from magicvideo_core.errors import WeightsError
from magicvideo_core.ids import short_hash

EMBEDDED = "tiny"
EMBEDDED_FOLDER = Path(__file__).resolve().parents[1] / "weights" / EMBEDDED
_REFERENCE_FIELDS = ("weights", "motion_adapter", "controlnet", "ip_adapter", "image_encoder")
# The embedded stages share parts (text encoder, VAE, spatial layers): each digest covers all a stage may load.
_EMBEDDED_PARTS = {"t2i": ("t2i",), "i2v": ("t2i", "i2v"), "v2v": ("t2i", "i2v", "v2v"), "vfi": ("vfi",)}
# Model cards and the like say something about the weights; they are not part of them.
_NOT_WEIGHTS = {".md", ".png", ".gitignore"}


@dataclass(frozen=True, slots=True)
class WeightsReference:
    """A parsed reference: a local folder or file (`path`), or a hub repository (`hub_id`, `revision`, `subpath`)."""

    path: Path | None = None
    hub_id: str = ""
    revision: str = ""
    subpath: str = ""


def resolve_weights(reference: str, stage: str, component: str = "", revision: str = "") -> WeightsReference:
    """Parse a reference of `stage`: `tiny`, a local path, or `hub/id[@revision][:path/in/the/repository]`.

    `tiny` stands for the embedded `weights/tiny/<stage>[/<component>]`. Raises WeightsError if a local path is missing.
    """
    if reference == EMBEDDED:
        path = EMBEDDED_FOLDER / stage / component
    elif is_local_reference(reference):
        path = Path(reference).expanduser()
    else:
        hub_part, _, subpath = reference.partition(":")
        hub_id, _, own_revision = hub_part.partition("@")
        return WeightsReference(hub_id=hub_id, revision=own_revision or revision, subpath=subpath)
    if not path.exists():
        raise WeightsError(f"Weights {reference!r} of stage {stage} are missing: there is no {path}.")
    return WeightsReference(path=path)


def is_local_reference(reference: str) -> bool:
    """Say whether a reference is a path on this machine; a hub id is `owner/name` and no path that exists."""
    return reference.startswith(("/", "./", "../", "~")) or Path(reference).exists()


def references(stage_config: StageConfig) -> dict[str, str]:
    """Return the weights references of a stage by field name."""
    return {name: getattr(stage_config, name) for name in _REFERENCE_FIELDS if name in type(stage_config).model_fields}


def references_digest(stage: str, stage_config: StageConfig) -> str:
    """Return one digest over all weights references of a stage."""
    digests = {}
    for name, reference in references(stage_config).items():
        if reference == EMBEDDED:
            digests[name] = [folder_digest(resolve_weights(EMBEDDED, part).path) for part in _EMBEDDED_PARTS[stage]]
            continue
        found = resolve_weights(reference, stage, revision=stage_config.revision if name == "weights" else "")
        hub = f"{found.hub_id}@{found.revision or 'main'}" + (f":{found.subpath}" if found.subpath else "")
        digests[name] = [folder_digest(found.path) if found.path else hub]
    return digests["weights"][0] if len(digests) == 1 and len(digests["weights"]) == 1 else short_hash(digests)


def folder_digest(path: Path | None) -> str:
    """Return the sha256 over names and contents of a file or of all weights files below a folder."""
    assert path is not None
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if _is_weights_file(file))
    if not files:
        raise WeightsError(f"Weights folder {path} is empty: train the module or name another folder.")
    digest = hashlib.sha256()
    for file in files:
        stat = file.stat()
        name = file.relative_to(path).as_posix() if file != path else file.name
        digest.update(f"{name}\0{_file_sha256(file, stat.st_size, stat.st_mtime_ns)}\n".encode())
    return digest.hexdigest()


def _is_weights_file(path: Path) -> bool:
    return path.is_file() and path.suffix not in _NOT_WEIGHTS and not path.name.startswith(".")


@lru_cache(maxsize=4096)
def _file_sha256(path: Path, size_bytes: int, mtime_ns: int) -> str:
    """Hash a file once per process; size and time are there to notice that it changed."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
