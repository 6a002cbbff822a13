"""What `magicvideo train MODULE` runs: one recipe per module, its usual settings, and the folder it continues from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from magicvideo_core.errors import ConfigError
from magicvideo_core.training.loop import Recipe, TrainingSettings, run_training
from magicvideo_core.training.peers import PeerAveraging

MODULES = ("vae", "t2i", "i2v", "v2v", "vfi")


@dataclass(frozen=True, slots=True)
class ModuleTraining:
    """The usual settings of a module: the optimisation, and the mixture of batches where the recipe takes one."""

    settings: TrainingSettings
    mixture: Mapping[str, float] = field(default_factory=dict)
    train_spatial: bool = True


DEFAULTS = {
    "vae": ModuleTraining(TrainingSettings(steps=1600, learning_rate=3e-3, warmup_steps=50, decay_fraction=0.4)),
    "t2i": ModuleTraining(TrainingSettings(steps=6000), {"image64": 0.65, "image128": 0.35}),
    "i2v": ModuleTraining(
        TrainingSettings(steps=8000, learning_rate=8e-4), {"i2v": 0.4, "image64": 0.3, "image128": 0.2, "v2v": 0.1}
    ),
    "v2v": ModuleTraining(TrainingSettings(steps=1000, learning_rate=8e-4), {"v2v": 1.0}, train_spatial=False),
}

# What a module does not take; saying nothing would train something else than was asked for.
_NOT_TAKEN = {
    "vae": {"base", "mixture", "frames_per_clip", "train_spatial"},
    "t2i": {"frames_per_clip", "train_spatial"},
    "i2v": set[str](),
    "v2v": set[str](),
    "vfi": {"base", "mixture", "frames_per_clip", "train_spatial", "peers", "learning_rate"},
}


def parse_mixture(text: str) -> dict[str, float]:
    """`kind=share,kind=share` with kinds i2v, v2v, image64, image128 and positive shares. Raises ConfigError."""
    mixture = {}
    for part in text.split(","):
        kind, separator, share = part.strip().partition("=")
        try:
            mixture[kind] = float(share)
        except ValueError:
            mixture[kind] = 0.0
        if not separator or kind not in ("i2v", "v2v", "image64", "image128") or mixture[kind] <= 0:
            raise ConfigError(
                f"Mixture part {part!r} must be KIND=SHARE with a kind of i2v, v2v, image64, image128 and a share above 0."
            )
    return mixture


def train(
    module: str,
    output: Path,
    *,
    base: Path | None = None,
    mixture: Mapping[str, float] | None = None,
    frames_per_clip: int | None = None,
    train_spatial: bool | None = None,
    peers: PeerAveraging | None = None,
    **changes: object,
) -> Path:
    """Train one module into `output`, continuing from a checkpoint there.

    Args:
        module: one of `MODULES`.
        base: the folder of the family so far (vae/ for t2i; t2i/ and, to go on with them, i2v/ and v2v/ for the video
            modules), in the layout that the modules before wrote.
        mixture: shares of the kinds of batches (image64, image128, i2v, v2v); the module's own where None.
        frames_per_clip: of the 16 keyframes, how many each clip shows a video module; its own numbers where None.
        train_spatial: whether a video module also trains the shared spatial layers and the text encoder.
        changes: fields of `TrainingSettings` that differ from the module's own (steps, seed, learning_rate, ...).

    Raises ConfigError for an unknown module, an option that it does not take, or a base that lacks what it needs.
    """
    if module not in MODULES:
        raise ConfigError(f"Unknown module {module!r}; choose one of {', '.join(MODULES)}.")
    _check_taken(
        module,
        dict(
            base=base,
            mixture=mixture,
            frames_per_clip=frames_per_clip,
            train_spatial=train_spatial,
            peers=peers,
            **changes,
        ),
    )
    if module == "vfi":
        from magicvideo_core.training.vfi import train_vfi

        return train_vfi(output, **{"steps": 4000, **changes})  # type: ignore[arg-type]
    defaults = DEFAULTS[module]
    settings = replace(defaults.settings, **changes)  # type: ignore[arg-type]
    if train_spatial is not None:
        defaults = replace(defaults, train_spatial=train_spatial)
    defaults = replace(defaults, mixture=mixture or defaults.mixture)
    torch.manual_seed(settings.seed)
    return run_training(_recipe(module, base, defaults, frames_per_clip), settings, output, peers=peers)


def _check_taken(module: str, options: Mapping[str, object]) -> None:
    given = [name for name, value in options.items() if value is not None and name in _NOT_TAKEN[module]]
    if given:
        flag = "--freeze-spatial/--train-spatial" if given[0] == "train_spatial" else f"--{given[0].replace('_', '-')}"
        raise ConfigError(f"Training {module} takes no {flag}: leave it out.")
    mixture = options["mixture"]
    if module == "t2i" and isinstance(mixture, Mapping) and not all(kind.startswith("image") for kind in mixture):
        raise ConfigError(f"Training t2i takes only image64 and image128 in --mixture, not {', '.join(mixture)}.")


def _recipe(module: str, base: Path | None, training: ModuleTraining, frames_per_clip: int | None) -> Recipe:
    if module == "vae":
        from magicvideo_core.training.vae import VaeRecipe

        return VaeRecipe(batch_size=32)
    needed = {"t2i": "vae", "i2v": "t2i", "v2v": "i2v"}[module]
    if base is None or not (base / needed).is_dir():
        raise ConfigError(f"Training {module} needs --base, a folder that holds {needed}/: train that module first.")
    if module == "t2i":
        from magicvideo_core.training.t2i import TextToImageRecipe

        kinds = {int(kind.removeprefix("image")): n for kind, n in training.mixture.items() if kind.startswith("image")}
        return TextToImageRecipe(base, batch_sizes={64: 64, 128: 24}, shares=kinds)
    from magicvideo_core.training.video import Mixture, VideoRecipe

    mixture = Mixture(shares=training.mixture)
    if frames_per_clip is not None:
        mixture = replace(mixture, frames_per_clip=dict.fromkeys(mixture.frames_per_clip, frames_per_clip))
    return VideoRecipe(base, mixture=mixture, train_spatial=training.train_spatial)
