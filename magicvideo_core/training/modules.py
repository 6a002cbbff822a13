"""What `magicvideo train MODULE` runs: one recipe per module, its usual settings, and the folder it continues from."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from magicvideo_core.errors import ConfigError
from magicvideo_core.training.data import CAPTION_DROPOUT, Data, MovingShapes
from magicvideo_core.training.loop import Recipe, TrainingSettings, run_training
from magicvideo_core.training.parallel import DataParallel
from magicvideo_core.training.peers import PeerAveraging

logger = logging.getLogger(__name__)

MODULES = ("vae", "t2i", "i2v", "v2v", "vfi")


@dataclass(frozen=True, slots=True)
class ModuleTraining:
    """The usual settings of a module: the optimisation, the mixture of batches and how many images or clips each kind has."""

    settings: TrainingSettings
    batch_sizes: Mapping[str, int]
    mixture: Mapping[str, float] = field(default_factory=dict)
    train_spatial: bool = True


_IMAGES = {"image64": 64, "image128": 24}
_MEDIA = {**_IMAGES, "i2v": 16, "v2v": 4}


DEFAULTS = {
    "vae": ModuleTraining(
        TrainingSettings(steps=1600, learning_rate=3e-3, warmup_steps=50, decay_fraction=0.4),
        {"image64": 32, "image128": 8},
    ),
    "t2i": ModuleTraining(TrainingSettings(steps=6000, optimizer="muon"), _IMAGES, {"image64": 0.65, "image128": 0.35}),
    "i2v": ModuleTraining(
        TrainingSettings(steps=8000, learning_rate=8e-4, optimizer="muon"),
        _MEDIA,
        {"i2v": 0.4, "image64": 0.3, "image128": 0.2, "v2v": 0.1},
    ),
    "v2v": ModuleTraining(
        TrainingSettings(steps=1000, learning_rate=8e-4, optimizer="muon"), _MEDIA, {"v2v": 1.0}, train_spatial=False
    ),
}

# Of a decoder that is trained on below a family's encoder: `train vae` with a base.
DECODER = ModuleTraining(
    TrainingSettings(
        steps=4000,
        warmup_steps=50,
        decay_fraction=0.6,
        weight_decay=0.0,
        optimizer="muon",
        muon_min_side=32,
        checkpoint_every=200,
    ),
    {"image64": 24, "image128": 6},
)

# What a module does not take; saying nothing would train something else than was asked for.
_NOT_TAKEN = {
    "vae": {"mixture", "frames_per_clip", "train_spatial", "caption_dropout", "reference_dropout"},
    "t2i": {"frames_per_clip", "train_spatial", "reference_dropout"},
    "i2v": set[str](),
    "v2v": set[str](),
    "vfi": {"base", "mixture", "frames_per_clip", "train_spatial", "caption_dropout", "reference_dropout", "data"}
    | {"peers", "workers", "parts", "learning_rate", "ema_decay", "optimizer"},
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
    data: Sequence[str] = (),
    caption_dropout: float | None = None,
    reference_dropout: float | None = None,
    peers: PeerAveraging | None = None,
    parallel: DataParallel | None = None,
    **changes: Any,
) -> Path:
    """Train one module into `output`, continuing from a checkpoint there.

    Args:
        module: one of `MODULES`.
        base: the folder of the family so far (vae/ for t2i; t2i/ and, to go on with them, i2v/ and v2v/ for the video
            modules), in the layout that the modules before wrote. For vae a family whose decoder is to be trained on: its
            encoder, and so all that was trained on its latents, stays.
        mixture: shares of the kinds of batches (image64, image128, i2v, v2v); the module's own where None.
        frames_per_clip: of the 16 keyframes, how many each clip shows a video module; its own numbers where None.
        train_spatial: whether a video module also trains the shared spatial layers and the text encoder.
        data: Parquet manifests of captioned media (files, globs or folders; any fsspec URL) instead of rendered scenes.
        caption_dropout, reference_dropout: how often (0..1) captions, and the reference's image tokens and ControlNet, are
            left out; 0.1 where None.
        peers, parallel: this process's side of a training in several, see `run_training`.
        changes: fields of `TrainingSettings` that differ from the module's own (steps, seed, parts, ...).

    Raises ConfigError for an unknown module, an option that it does not take, a base that lacks what it needs, or data that
    hold nothing to train on.
    """
    options: dict[str, Any] = dict(
        base=base, mixture=mixture, frames_per_clip=frames_per_clip, train_spatial=train_spatial, peers=peers
    )
    options |= dict(caption_dropout=caption_dropout, reference_dropout=reference_dropout, data=data or None)
    prepare_training(module, output, options | changes)
    if module == "vfi":
        from magicvideo_core.training.vfi import train_vfi

        return train_vfi(output, **changes)
    defaults = _usual(module, base)
    settings = replace(defaults.settings, **changes)
    if train_spatial is not None:
        defaults = replace(defaults, train_spatial=train_spatial)
    sizes = {kind: size // settings.parts for kind, size in defaults.batch_sizes.items()}
    defaults = replace(defaults, mixture=mixture or defaults.mixture, batch_sizes=sizes)
    torch.manual_seed(settings.seed)
    source = _open_data(data, output, CAPTION_DROPOUT if caption_dropout is None else caption_dropout)
    recipe = _recipe(module, base, defaults, source, frames_per_clip, reference_dropout)
    _warn_of_unknown_words(recipe, source)
    return run_training(recipe, settings, output, peers=peers, parallel=parallel)


def prepare_training(module: str, output: Path, options: Mapping[str, Any]) -> None:
    """Check the arguments of `train` (None is not given) and decode its data, where that has not been done.

    Raises ConfigError.
    """
    check_request(module, options)
    check_base(module, options.get("base"))
    if module not in DEFAULTS:
        return
    defaults = _usual(module, options.get("base"))
    parts = options.get("parts") or defaults.settings.parts
    for kind, size in defaults.batch_sizes.items():
        if size % parts:
            raise ConfigError(f"A batch of {size} ({kind}) cannot come in {parts} equal parts: choose other --parts.")
    if options.get("data"):
        from magicvideo_core.training.manifest_data import prepare

        kinds = set(options.get("mixture") or defaults.mixture)
        prepare(options["data"], output / "data", needs_videos=bool(kinds & {"i2v", "v2v"}))


def _usual(module: str, base: Path | None) -> ModuleTraining:
    return DECODER if module == "vae" and base is not None else DEFAULTS[module]


def check_base(module: str, base: Path | None) -> None:
    """Raise ConfigError where a module's base lacks what it starts from."""
    if module == "vae" and base is not None and not (base / "t2i" / "vae").is_dir():
        raise ConfigError("Training vae with --base needs a folder that holds t2i/vae/, the autoencoder to go on from.")
    needed = {"t2i": "vae", "i2v": "t2i", "v2v": "i2v"}.get(module)
    if needed is not None and (base is None or not (base / needed).is_dir()):
        raise ConfigError(f"Training {module} needs --base, a folder that holds {needed}/: train that module first.")


def check_request(module: str, options: Mapping[str, object]) -> None:
    """Raise ConfigError for an unknown module, or an option (by its name; None is not given) that it does not take."""
    if module not in MODULES:
        raise ConfigError(f"Unknown module {module!r}; choose one of {', '.join(MODULES)}.")
    given = [name for name, value in options.items() if value is not None and name in _NOT_TAKEN[module]]
    if given:
        flag = "--freeze-spatial/--train-spatial" if given[0] == "train_spatial" else f"--{given[0].replace('_', '-')}"
        raise ConfigError(f"Training {module} takes no {flag}: leave it out.")
    mixture = options.get("mixture")
    if module == "t2i" and isinstance(mixture, Mapping) and not all(kind.startswith("image") for kind in mixture):
        raise ConfigError(f"Training t2i takes only image64 and image128 in --mixture, not {', '.join(mixture)}.")


def _open_data(data: Sequence[str], output: Path, caption_dropout: float) -> Data:
    if not data:
        return MovingShapes(caption_dropout=caption_dropout)
    from magicvideo_core.training.manifest_data import ManifestData

    return ManifestData(output / "data", caption_dropout=caption_dropout)


def _recipe(
    module: str,
    base: Path | None,
    training: ModuleTraining,
    data: Data,
    frames_per_clip: int | None,
    reference_dropout: float | None,
) -> Recipe:
    if module == "vae":
        from magicvideo_core.training.vae import DecoderRecipe, VaeRecipe

        count = training.batch_sizes["image64"]
        return (
            VaeRecipe(batch_size=count, data=data) if base is None else DecoderRecipe(base, batch_size=count, data=data)
        )
    assert base is not None
    if module == "t2i":
        from magicvideo_core.training.t2i import TextToImageRecipe

        sizes = {pixels: training.batch_sizes[f"image{pixels}"] for pixels in (64, 128)}
        shares = {int(kind.removeprefix("image")): share for kind, share in training.mixture.items()}
        return TextToImageRecipe(base, batch_sizes=sizes, shares=shares, data=data)
    from magicvideo_core.training.video import REFERENCE_DROPOUT, Mixture, VideoRecipe

    mixture = Mixture(shares=training.mixture, batch_sizes=training.batch_sizes)
    if frames_per_clip is not None:
        mixture = replace(mixture, frames_per_clip=dict.fromkeys(mixture.frames_per_clip, frames_per_clip))
    return VideoRecipe(
        base,
        mixture=mixture,
        train_spatial=training.train_spatial,
        data=data,
        reference_dropout=REFERENCE_DROPOUT if reference_dropout is None else reference_dropout,
    )


def _warn_of_unknown_words(recipe: Any, data: Data) -> None:
    """Say which words of the captions a family that is trained on cannot tell apart: its tokenizer was made before them."""
    tokenizer = getattr(getattr(recipe, "images", recipe), "tokenizer", None)
    known = None if tokenizer is None else tokenizer.get_vocab()
    unknown = [] if known is None else [word for word in data.vocabulary if word not in known and word.isalnum()]
    if unknown:
        shown = ", ".join(unknown[:12]) + (f" and {len(unknown) - 12} more" if len(unknown) > 12 else "")
        logger.warning(
            "the tokenizer of the family in --base knows not the words %s; they all read the same to it", shown
        )
