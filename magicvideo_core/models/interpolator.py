"""The arbitrary-time frame interpolator: one estimate of the motion, a lightweight and a GAN-trained head, and their sum.

The pyramid and the coarse motion run once per pair of frames, the rest once per time. Shape suffixes: B pairs, T times, C
channels, H, W pixels. Frames are float32 in [0, 1].
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from magicvideo_core.errors import WeightsError
from magicvideo_core.models.autoencoder import AutoencoderConfig, GanHead
from magicvideo_core.models.light import LightHead
from magicvideo_core.models.matching import window_mean
from magicvideo_core.models.motion import MotionConfig, MotionEstimator, PairPyramid, View
from magicvideo_core.models.strict_state import load_strictly

ARCHITECTURE = "motion-edsc-interpolator"
CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"

Combine = Literal["fallback", "blend", "frequency", "gan", "light"]
COMBINATIONS: tuple[Combine, ...] = get_args(Combine)
# Where the two heads differ by this much (of 0..1, mean over colours and 5x5 pixels), the lightweight one is taken half.
FALLBACK_DIFFERENCE = 0.04
# Side in pixels of the window whose mean is called low frequency.
LOW_FREQUENCY_PX = 9


@dataclass(frozen=True, slots=True)
class InterpolatorConfig:
    """Sizes of the parts."""

    motion: MotionConfig = field(default_factory=MotionConfig)
    gan: AutoencoderConfig = field(default_factory=AutoencoderConfig)


@dataclass(frozen=True, slots=True)
class PairFeatures:
    """What is known of a padded pair before a time is asked for, and the size that it had."""

    pair: PairPyramid
    size_HW: tuple[int, int]


class Interpolator(nn.Module):
    """Frames at any times between two frames of any size.

    `combine` says whose they are: `light`, `gan`, or both: `fallback` (the GAN's, but where it is far from the lightweight
    head), `blend` (their mean), `frequency` (the lightweight head's low frequencies, the GAN's high ones).
    """

    def __init__(self, config: InterpolatorConfig, combine: Combine = "fallback") -> None:
        super().__init__()
        self.config = config
        self.combine = combine
        self.motion = MotionEstimator(config.motion)
        self.light = LightHead(config.motion)
        self.gan = GanHead(config.gan, config.motion)

    def forward(
        self, first_BCHW: torch.Tensor, second_BCHW: torch.Tensor, interp_times_BT: torch.Tensor
    ) -> torch.Tensor:
        """Frames between, BTCHW, not clamped, from float32 BCHW in [0, 1] of any size and times in 0..1."""
        features = self.encode(first_BCHW, second_BCHW)
        return torch.stack([self.synthesize(features, times) for times in interp_times_BT.unbind(1)], dim=1)

    def encode(self, first_BCHW: torch.Tensor, second_BCHW: torch.Tensor) -> PairFeatures:
        """The part that does not depend on time. Pads inside; the frames may have any size."""
        height, width = first_BCHW.shape[-2:]
        padding = (0, -width % self.config.motion.alignment, 0, -height % self.config.motion.alignment)
        first, second = (F.pad(each, padding, mode="replicate") for each in (first_BCHW, second_BCHW))
        return PairFeatures(self.motion.encode(first, second), (height, width))

    def synthesize(self, features: PairFeatures, interp_time_B: torch.Tensor) -> torch.Tensor:
        """The frame at time t of each pair: float32 BCHW."""
        frame = self._combined(self.motion.view(features.pair, interp_time_B))
        return frame[:, :, : features.size_HW[0], : features.size_HW[1]]

    def _combined(self, view: View) -> torch.Tensor:
        if self.combine == "light":
            return self.light(view)
        gan, _ = self.gan(view)
        return gan if self.combine == "gan" else combined(self.combine, gan, self.light(view))


def combined(combine: Combine, gan_BCHW: torch.Tensor, light_BCHW: torch.Tensor) -> torch.Tensor:
    """One frame from the two heads' (`Interpolator`)."""
    if combine == "blend":
        return (gan_BCHW + light_BCHW) / 2
    if combine == "frequency":
        return gan_BCHW + window_mean(light_BCHW - gan_BCHW, LOW_FREQUENCY_PX)
    difference = window_mean((gan_BCHW - light_BCHW).abs().mean(1, keepdim=True), 5)
    # A step would show: from none at half the threshold to all at one and a half.
    share = (difference / FALLBACK_DIFFERENCE - 0.5).clamp(0, 1)
    return torch.lerp(gan_BCHW, light_BCHW, share)


def save_interpolator(model: Interpolator, folder: Path) -> None:
    """Write config.json and the weights as fp16 safetensors."""
    folder.mkdir(parents=True, exist_ok=True)
    record = {"architecture": ARCHITECTURE, **asdict(model.config)}
    (folder / CONFIG_FILE).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    state = {name: tensor.detach().to("cpu", torch.float16).contiguous() for name, tensor in model.state_dict().items()}
    save_file(state, folder / WEIGHTS_FILE)


def load_interpolator(folder: Path, combine: Combine = "fallback") -> Interpolator:
    """Read what `save_interpolator` wrote: a float32 model in eval mode.

    Raises:
        WeightsError: a file is missing or unreadable, or names and shapes differ from the configuration (all listed).
    """
    config_path, weights_path = folder / CONFIG_FILE, folder / WEIGHTS_FILE
    for path in (config_path, weights_path):
        if not path.is_file():
            raise WeightsError(f"interpolator weights: {path} does not exist; give a folder that holds {path.name}")
    try:
        record = json.loads(config_path.read_text(encoding="utf-8"))
        if record.pop("architecture") != ARCHITECTURE:
            raise ValueError(f"architecture is not {ARCHITECTURE}")
        sizes = record.pop("motion")
        motion = MotionConfig(**{**sizes, "widths": tuple(sizes["widths"])})
        config = InterpolatorConfig(motion=motion, gan=AutoencoderConfig(**record.pop("gan")), **record)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise WeightsError(f"{config_path}: not a configuration of {ARCHITECTURE}: {error!r}") from error
    try:
        state = load_file(weights_path)
    except SafetensorError as error:
        raise WeightsError(f"{weights_path}: not a safetensors file: {error}") from error
    model = Interpolator(config, combine)
    load_strictly(model, state, str(weights_path), str(config_path))
    return model.eval()
