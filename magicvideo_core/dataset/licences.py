"""Under which licence weights are: by the model card beside them or in the hub's cache, of known repositories, or not known."""

from __future__ import annotations

import re
from pathlib import Path

from magicvideo_core.config.models import StageConfig
from magicvideo_core.config.weights import EMBEDDED, is_local_reference, references

UNKNOWN = "not known: see its model card"
# To our knowledge: the model card of the revision that was used decides, and the dataset card says so.
_OF_REPOSITORIES = {
    "stabilityai/stable-diffusion-xl-base-1.0": "openrail++",
    "stable-diffusion-v1-5/stable-diffusion-v1-5": "creativeml-openrail-m",
    "guoyww/animatediff-motion-adapter-v1-5-3": UNKNOWN,
    "lllyasviel/control_v11f1e_sd15_tile": "openrail",
    "h94/IP-Adapter": "apache-2.0",
}
_LICENCE = re.compile(r"^license:\s*['\"]?([^'\"\n#]+?)['\"]?\s*$", re.M)


def weights_of(stage_config: StageConfig) -> list[tuple[str, str, str]]:
    """Return (field, reference, licence) of every weights reference of a stage; `fake` backends have none."""
    if stage_config.backend == "fake":
        return []
    found = []
    for name, reference in references(stage_config).items():
        revision = stage_config.revision if name == "weights" and stage_config.revision else ""
        shown = f"{reference}@{revision}" if revision and "@" not in reference else reference
        if reference == EMBEDDED:
            found.append((name, "the embedded family `tiny`", "this project's own, trained on rendered shapes alone"))
        elif is_local_reference(reference):
            # A path says nothing to those who get the dataset; its name may.
            found.append((name, f"local {Path(reference).name}", _of_folder(Path(reference).expanduser())))
        else:
            repository, _, pinned = reference.partition(":")[0].partition("@")
            found.append((name, shown, _of_repository(repository, pinned or revision or "main")))
    return found


def _of_repository(repository: str, revision: str) -> str:
    """Return what the model card says where the hub's cache of this machine has it, else what is known of the repository."""
    from huggingface_hub import constants, try_to_load_from_cache

    card = try_to_load_from_cache(repository, "README.md", cache_dir=constants.HF_HUB_CACHE, revision=revision)
    said = _in_card(Path(card)) if isinstance(card, str) else None
    return said or _OF_REPOSITORIES.get(repository, UNKNOWN)


def _of_folder(path: Path) -> str:
    """Return what the front matter of a model card beside the weights says."""
    for folder in (path if path.is_dir() else path.parent, path.parent):
        if (said := _in_card(folder / "README.md")) is not None:
            return said
    return UNKNOWN


def _in_card(path: Path) -> str | None:
    try:
        match = _LICENCE.search(path.read_text(encoding="utf-8", errors="replace")[:4000])
    except OSError:
        return None
    return match[1] if match else None
