"""Which class implements a stage's backend, and the hashes that say what a stage's output depends on."""

import importlib

from magicvideo_core.config.models import RunConfig
from magicvideo_core.config.weights import references, references_digest
from magicvideo_core.ids import STAGES, recipe_hash
from magicvideo_core.stages.base import Stage

# Named, not imported: a process loads torch only when it creates a stage that needs it.
# Every class takes the resolved RunConfig; the fake one also takes the stage's name.
_BACKENDS = {
    ("t2i", "diffusers"): "magicvideo_core.stages.t2i:T2IStage",
    ("i2v", "diffusers"): "magicvideo_core.stages.i2v:I2VStage",
    ("v2v", "diffusers"): "magicvideo_core.stages.v2v:V2VStage",
    ("vfi", "edsc"): "magicvideo_core.stages.vfi:VFIStage",
    ("vfi", "rife"): "magicvideo_core.stages.rife:RifeStage",
}
# Pools, gates and the fake's manners decide whether and when a clip is made, not its bytes. Weights count by digest.
_NOT_IN_RECIPE = {"pool", "gate", "fake", "revision"}


def create_stage(name: str, config: RunConfig) -> Stage:
    """Return the unloaded stage `name` of the backend that the configuration asks for."""
    backend = config.stage(name).backend
    if backend == "fake":
        from magicvideo_core.stages.fake import FakeStage

        return FakeStage(name, config)
    module_name, _, class_name = _BACKENDS[name, backend].partition(":")
    stage: Stage = getattr(importlib.import_module(module_name), class_name)(config)
    return stage


def weights_digest(name: str, config: RunConfig) -> str:
    """Return a digest over all weights of a stage: contents where they are local, id and revision on a hub."""
    stage = config.stage(name)
    return "fake" if stage.backend == "fake" else references_digest(name, stage)


def recipe_hashes(config: RunConfig, *, only_given: bool = False) -> dict[str, str]:
    """Return the recipe hash of each configured stage, chained from the first one on.

    With `only_given` over the settings that `config` was made from, without those that are there by default: of a run's
    stored configuration that is what the version which began the run hashed.
    """
    hashes: dict[str, str] = {}
    upstream = ""
    for name in STAGES:
        if name not in config.stages:
            continue
        stage = config.stage(name)
        settings = stage.model_dump(
            mode="json", exclude=_NOT_IN_RECIPE | set(references(stage)), exclude_unset=only_given
        )
        upstream = recipe_hash(settings, weights_digest(name, config), upstream)
        hashes[name] = upstream
    return hashes


def resolve_device(device: str) -> str:
    """Return the device that a setting stands for: `auto` is `cuda` where this process sees a GPU, else `cpu`."""
    if device != "auto":
        return device
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
