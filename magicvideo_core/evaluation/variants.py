"""What is switched off or replaced, one thing at a time, and the claims of the paper that this tests.

The claims are those of MagicVideo-V2 (arXiv 2401.04468), sections 2.2 (I2V) and 2.3 (V2V).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from magicvideo_core.errors import InputError, WeightsError

BASELINE = "baseline"
JOINT_TRAINING_OFF = "no-joint-training"
_SWEEP = (500, 600, 700, 800, 900)


@dataclass(frozen=True, slots=True)
class Variant:
    """One way of making the same clips: overrides over the configuration; `upscaling` "bicubic" leaves V2V out."""

    name: str
    text: str
    overrides: tuple[str, ...] = ()
    upscaling: Literal["v2v", "bicubic"] = "v2v"


@dataclass(frozen=True, slots=True)
class Claim:
    """What is claimed, the variant that lacks it, and in which attributes and measures it then has to lose."""

    text: str
    source: Literal["paper", "our reading"]
    variant: str
    loses: tuple[str, ...]


def _off(stage: str, *, appearance: bool = True, control: bool = True) -> tuple[str, ...]:
    return (f"{stage}.ip_adapter_scale=0",) * appearance + (f"{stage}.controlnet_conditioning_scale=0",) * control


VARIANTS: tuple[Variant, ...] = (
    Variant(BASELINE, "everything on"),
    Variant("no-noise-prior", "noise prior off", ("i2v.noise_prior_timestep=0",)),
    *(Variant(f"noise-prior-{t0}", f"noise prior, t0 = {t0}", (f"i2v.noise_prior_timestep={t0}",)) for t0 in _SWEEP),
    Variant("noise-prior-decay", "noise prior fading over the frames, 0.9^f", ("i2v.noise_prior_decay=0.9",)),
    Variant(
        "no-appearance-encoder",
        "appearance encoder off, I2V and V2V",
        (*_off("i2v", control=False), *_off("v2v", control=False)),
    ),
    Variant(
        "no-controlnet", "ControlNet off, I2V and V2V", (*_off("i2v", appearance=False), *_off("v2v", appearance=False))
    ),
    Variant("no-encoder-no-controlnet", "both off, I2V and V2V", (*_off("i2v"), *_off("v2v"))),
    Variant(
        "no-reference",
        "all three off: no image reaches I2V or V2V but by the keyframes",
        ("i2v.noise_prior_timestep=0", *_off("i2v"), *_off("v2v")),
    ),
    Variant("v2v-no-appearance-encoder", "V2V without appearance encoder", _off("v2v", control=False)),
    Variant("v2v-no-controlnet", "V2V without ControlNet", _off("v2v", appearance=False)),
    Variant("v2v-no-reference", "V2V without reference", _off("v2v")),
    Variant("bicubic", "V2V replaced by bicubic upscaling", (), "bicubic"),
)

CLAIMS: tuple[Claim, ...] = (
    Claim(
        "The appearance encoder carries the look of the reference image into the frames (2.2)",
        "paper",
        "no-appearance-encoder",
        ("colour", "texture", "texture_of_truth", "colour_drift"),
    ),
    Claim(
        "The ControlNet on the reference's RGB holds every frame to the reference (2.2)",
        "paper",
        "no-controlnet",
        ("shape", "texture_of_truth", "first_frame_psnr", "first_frame_iou"),
    ),
    Claim(
        "The latent noise prior keeps part of the layout and makes the frames more coherent (2.2)",
        "paper",
        "no-noise-prior",
        ("shape", "first_frame_psnr", "first_frame_iou", "object_flicker"),
    ),
    Claim(
        "Too much of the noise prior freezes the video",
        "our reading",
        "noise-prior-500",
        ("motion", "displacement_of_nominal"),
    ),
    Claim(
        "Without any of the three the frames lose the reference image (2.2)",
        "paper",
        "no-reference",
        ("all", "first_frame_psnr", "first_frame_iou", "colour_drift"),
    ),
    Claim(
        "V2V needs the reference: fewer structural errors, more detail (2.3)",
        "paper",
        "v2v-no-reference",
        ("shape", "texture", "texture_of_truth", "first_frame_psnr"),
    ),
    Claim(
        "V2V adds detail that upscaling does not, and repairs structure (2.3)",
        "paper",
        "bicubic",
        ("shape", "texture", "texture_of_truth", "all"),
    ),
    Claim(
        "Training on images and videos jointly lifts the quality of the frames (2.2)",
        "paper",
        JOINT_TRAINING_OFF,
        ("colour", "shape", "texture", "texture_of_truth"),
    ),
)


def choose_variants(only: Sequence[str] = (), weights: Path | None = None) -> list[Variant]:
    """Return the variants asked for (all of them for none), the baseline first; `weights` adds that family's.

    Raises InputError for an unknown name, WeightsError where the family lacks a part.
    """
    known = [*VARIANTS, *([] if weights is None else [_of_family(weights)])]
    names = [variant.name for variant in known]
    unknown = [name for name in only if name not in names]
    if unknown:
        hint = "; it needs --weights DIR" if unknown[0] == JOINT_TRAINING_OFF else ""
        raise InputError(f"There is no variant {unknown[0]!r}: choose from {', '.join(names)}{hint}.")
    return [variant for variant in known if not only or variant.name in (BASELINE, *only)]


def _of_family(folder: Path) -> Variant:
    """The video modules of a family that was trained without joint images; the reference images stay the baseline's."""
    parts = {"weights": "t2i", "ip_adapter": "i2v/ip_adapter", "image_encoder": "i2v/image_encoder",
             "controlnet": "i2v/controlnet"}  # fmt: skip
    overrides = []
    for stage in ("i2v", "v2v"):
        for key, part in {**parts, "motion_adapter": f"{stage}/motion_adapter"}.items():
            path = folder.expanduser().resolve() / part
            if not path.is_dir():
                raise WeightsError(f"The family in {folder} lacks {part}: train that module, or name another folder.")
            overrides.append(f"{stage}.{key}={path}")
    return Variant(JOINT_TRAINING_OFF, "joint training off", tuple(overrides))
