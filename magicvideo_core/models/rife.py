"""RIFE 4.24 to 4.26 for other people's weights: intermediate flow and a mask, refined level by level at each time.

Huang et al., "Real-Time Intermediate Flow Estimation for Video Frame Interpolation" (ECCV 2022, arXiv 2011.06294), in the
form of the 4.x models: features of both frames, 4 or 5 levels that see the frames warped so far and correct flow and mask.
Module names here are our own; `PUBLIC_NAMES` maps those of the public files. Written from the description and from the
names and shapes of those files.

Shape suffixes: B pairs, C channels, H, W pixels; flows hold x, y toward the first frame, then x, y toward the second, in
pixels. Frames are float32 in [0, 1].
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from magicvideo_core.errors import WeightsError
from magicvideo_core.models.edsc import sample_taps
from magicvideo_core.models.strict_state import load_strictly

RESIDUALS = 8
# Flow of both sides and the mask.
FLOW_AND_MASK = 5
SLOPE = 0.2
SUFFIXES = (".safetensors", ".pkl", ".pth", ".pt")
# Public name -> ours. A training's own parts (teacher, caltime) are in some files and no part of the interpolator.
PUBLIC_NAMES = (
    (r"block(\d+)\.conv0\.(\d)\.0\.", r"levels.\1.down.\2."),
    (r"block(\d+)\.convblock\.(\d+)\.conv\.", r"levels.\1.residuals.\2.conv."),
    (r"block(\d+)\.convblock\.(\d+)\.beta$", r"levels.\1.residuals.\2.gain"),
    (r"block(\d+)\.lastconv\.0\.", r"levels.\1.up."),
    (r"encode\.cnn(\d)\.", r"look.layers.\1."),
)
NOT_INTERPOLATOR = ("teacher.", "caltime.")


@dataclass(frozen=True, slots=True)
class RifeConfig:
    """Sizes, coarse to fine. `outputs`: channels of a level's estimate; what is beyond flow and mask goes to the next."""

    widths: tuple[int, ...]
    look_width: int
    look_channels: int
    outputs: int

    @property
    def carried(self) -> int:
        """Channels that a level hands to the next; 4.24's one spare channel is not used."""
        return self.outputs - FLOW_AND_MASK if self.outputs > FLOW_AND_MASK + 1 else 0

    @property
    def scales(self) -> tuple[int, ...]:
        """Each level works at 1/scale of the resolution."""
        return tuple(2**level for level in reversed(range(len(self.widths))))

    @property
    def alignment(self) -> int:
        """A level convolves down by four more."""
        return 4 * self.scales[0]


RIFE_4_24 = RifeConfig(widths=(192, 128, 96, 64), look_width=32, look_channels=8, outputs=6)
RIFE_4_25 = RifeConfig(widths=(192, 128, 96, 64, 32), look_width=16, look_channels=4, outputs=13)


class Look(nn.Module):
    """Features of one frame, at its resolution."""

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            [
                nn.Conv2d(3, width, 3, stride=2, padding=1),
                nn.Conv2d(width, width, 3, padding=1),
                nn.Conv2d(width, width, 3, padding=1),
                nn.ConvTranspose2d(width, channels, 4, stride=2, padding=1),
            ]
        )

    def forward(self, frame_BCHW: torch.Tensor) -> torch.Tensor:
        x = self.layers[0](frame_BCHW)
        for layer in list(self.layers)[1:]:
            x = layer(F.leaky_relu(x, SLOPE))
        return x


class ScaledResidual(nn.Module):
    """A convolution beside a skip connection, each channel with a gain of its own."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)
        self.gain = nn.Parameter(torch.ones(1, width, 1, 1))

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        return F.leaky_relu(self.conv(x_BCHW) * self.gain + x_BCHW, SLOPE)


class Level(nn.Module):
    """An estimate at one scale: a correction of the flow, the mask, and what the next level is told."""

    def __init__(self, in_channels: int, width: int, outputs: int) -> None:
        super().__init__()
        self.down = nn.ModuleList(
            [
                nn.Conv2d(in_channels, width // 2, 3, stride=2, padding=1),
                nn.Conv2d(width // 2, width, 3, stride=2, padding=1),
            ]
        )
        self.residuals = nn.ModuleList(ScaledResidual(width) for _ in range(RESIDUALS))
        self.up = nn.ConvTranspose2d(width, 4 * outputs, 4, stride=2, padding=1)

    def forward(self, seen_BCHW: torch.Tensor, flow_B4HW: torch.Tensor | None, scale: int) -> tuple[torch.Tensor, ...]:
        # 1. To the level's scale; a flow's length scales too.
        x = _resize(seen_BCHW, 1 / scale)
        if flow_B4HW is not None:
            x = torch.cat([x, _resize(flow_B4HW, 1 / scale) / scale], dim=1)
        # 2. At a quarter of it.
        for layer in self.down:
            x = F.leaky_relu(layer(x), SLOPE)
        for residual in self.residuals:
            x = residual(x)
        # 3. Back to full resolution.
        x = _resize(F.pixel_shuffle(self.up(x), 2), scale)
        return x[:, :4] * scale, x[:, 4:5], x[:, 5:]


@dataclass(frozen=True, slots=True)
class RifePair:
    """A padded pair with both frames' features, and the size that it had."""

    frames_BCHW: tuple[torch.Tensor, torch.Tensor]
    looks_BCHW: tuple[torch.Tensor, torch.Tensor]
    size_HW: tuple[int, int]


class Rife(nn.Module):
    """Frames at any times between two frames."""

    def __init__(self, config: RifeConfig) -> None:
        super().__init__()
        self.config = config
        self.look = Look(config.look_width, config.look_channels)
        seen = 6 + 2 * config.look_channels + 1
        later = seen + 1 + config.carried + 4
        self.levels = nn.ModuleList(
            Level(later if index else seen, width, config.outputs) for index, width in enumerate(config.widths)
        )

    def encode(self, first_BCHW: torch.Tensor, second_BCHW: torch.Tensor) -> RifePair:
        """Features of both frames, once for all times. Pads inside; the frames may have any size."""
        height, width = first_BCHW.shape[-2:]
        padding = (0, -width % self.config.alignment, 0, -height % self.config.alignment)
        first, second = (F.pad(each, padding, mode="replicate") for each in (first_BCHW, second_BCHW))
        return RifePair((first, second), (self.look(first), self.look(second)), (height, width))

    def synthesize(self, features: RifePair, interp_time_B: torch.Tensor) -> torch.Tensor:
        """The frame at time t of each pair: float32 BCHW."""
        frames, looks = features.frames_BCHW, features.looks_BCHW
        time = interp_time_B[:, None, None, None].expand(-1, 1, *frames[0].shape[-2:]).to(frames[0])
        flow, mask, carried = self.levels[0](torch.cat([*frames, *looks, time], dim=1), None, self.config.scales[0])
        for level, scale in zip(list(self.levels)[1:], self.config.scales[1:], strict=True):
            seen = [*_warp_both(frames, flow), *_warp_both(looks, flow), time, mask]
            told = [carried] if self.config.carried else []
            correction, mask, carried = level(torch.cat([*seen, *told], dim=1), flow, scale)
            flow = flow + correction
        first, second = _warp_both(frames, flow)
        height, width = features.size_HW
        return torch.lerp(second, first, mask.float().sigmoid())[:, :, :height, :width]


def _resize(x_BCHW: torch.Tensor, factor: float) -> torch.Tensor:
    return x_BCHW if factor == 1 else F.interpolate(x_BCHW, scale_factor=factor, mode="bilinear", align_corners=False)


def _warp_both(pair_BCHW: Sequence[torch.Tensor], flow_B4HW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Both images seen through their flows: one EDSC tap of weight 1 is flow warping."""
    ones = torch.ones_like(flow_B4HW[:, :1], dtype=torch.float32)
    first, second = (
        sample_taps(image.float(), ones, flow.float()[:, :, None])
        for image, flow in zip(pair_BCHW, flow_B4HW.split(2, dim=1), strict=True)
    )
    return first, second


# ---- public files -----------------------------------------------------------------------------------------------------


def our_names(public: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors of a public file by our names; names that it should not hold stay as they are."""
    renamed = {}
    for name, tensor in public.items():
        name = name.removeprefix("module.")
        if name.startswith(NOT_INTERPOLATOR):
            continue
        for pattern, ours in PUBLIC_NAMES:
            name = re.sub(f"^{pattern}", ours, name)
        renamed[name] = tensor
    return renamed


def load_rife(path: Path) -> Rife:
    """A model from a public file (safetensors, or torch's format read without its code), or from a folder that holds one.

    The sizes are read off the tensors, so narrower and wider relatives of the same layout load too. float32, eval mode.

    Raises:
        WeightsError: no file, several or an unreadable one, or names and shapes that are not of this layout (all listed).
    """
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix in SUFFIXES)
        if len(files) != 1:
            held = ", ".join(file.name for file in files) or "none"
            raise WeightsError(f"RIFE weights: {path} should hold one file of {', '.join(SUFFIXES)}, and holds {held}.")
        path = files[0]
    state = our_names(_read(path))
    try:
        levels = {int(name.split(".")[1]) for name in state if name.startswith("levels.")}
        config = RifeConfig(
            widths=tuple(state[f"levels.{level}.down.1.weight"].shape[0] for level in range(len(levels))),
            look_width=state["look.layers.0.weight"].shape[0],
            look_channels=state["look.layers.3.weight"].shape[1],
            outputs=state["levels.0.up.weight"].shape[1] // 4,
        )
    except (KeyError, IndexError) as error:
        raise WeightsError(f"{path} is not of RIFE's 4.24, 4.25 or 4.26 layout: it has no {error}") from error
    known = {(len(each.widths), each.outputs) for each in (RIFE_4_24, RIFE_4_25)}
    if (len(config.widths), config.outputs) not in known:
        raise WeightsError(
            f"{path} has {len(config.widths)} levels of {config.outputs} outputs; RIFE 4.24 has 4 of 6, 4.25 and 4.26 5 of 13"
        )
    model = Rife(config)
    load_strictly(model, state, str(path), "the layout of RIFE 4.24, 4.25 and 4.26")
    return model.float().eval()


def _read(path: Path) -> Mapping[str, torch.Tensor]:
    if path.suffix not in SUFFIXES:
        raise WeightsError(f"RIFE weights: {path} is none of {', '.join(SUFFIXES)}.")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise WeightsError(f"{path} cannot be read as tensors alone: {reason}") from error
    if not isinstance(state, Mapping) or not all(isinstance(each, torch.Tensor) for each in state.values()):
        raise WeightsError(f"{path} holds something other than named tensors.")
    return state
