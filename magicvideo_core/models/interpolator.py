"""The arbitrary-time frame interpolator: a U-Net trunk run once per pair of frames, and EDSC heads run once per time.

Shape suffixes: B pairs, T times, C channels, H, W pixels, K, N, 2 as in `edsc`. Frames are float32 in [0, 1].
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from magicvideo_core.errors import WeightsError
from magicvideo_core.models.edsc import SideKernels, sample_taps

ARCHITECTURE = "edsc-interpolator"
CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"


@dataclass(frozen=True, slots=True)
class InterpolatorConfig:
    """Sizes of the network. `widths`: channels at 1/2, 1/4, ... of the resolution; `num_taps`: the operator's K."""

    num_taps: int = 3
    widths: tuple[int, ...] = (32, 40, 56, 72, 80)
    head_channels: int = 48

    @property
    def alignment(self) -> int:
        """Both sides of the trunk's input are padded to a multiple of this many pixels."""
        return int(2 ** len(self.widths))


class ResidualBlock(nn.Module):
    """Two convolutions around a skip connection."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        return x_BCHW + self.conv2(F.leaky_relu(self.conv1(F.leaky_relu(x_BCHW, 0.1)), 0.1))


class Trunk(nn.Module):
    """U-Net over the pair; six channels at full resolution in, features at half resolution out."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.stem = nn.Conv2d(6 * 4, widths[0], 3, padding=1)
        self.downs = nn.ModuleList(nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in pairwise(widths))
        self.encoder_blocks = nn.ModuleList(ResidualBlock(width) for width in widths[1:])
        self.ups = nn.ModuleList(nn.Conv2d(b, a, 1) for a, b in pairwise(widths))
        self.decoder_blocks = nn.ModuleList(ResidualBlock(width) for width in widths[:-1])

    def forward(self, pair_BCHW: torch.Tensor) -> torch.Tensor:
        # 1. Space to depth: the full resolution is too dear to convolve at.
        x = self.stem(F.pixel_unshuffle(pair_BCHW, 2))
        # 2. Down to the coarsest level, which sees whole objects: a texture that moves by half its period is ambiguous
        #    without the outline.
        skips = []
        for down, block in zip(self.downs, self.encoder_blocks, strict=True):
            skips.append(x)
            x = block(down(F.leaky_relu(x, 0.1)))
        # 3. Up again, adding what each level had.
        for level in reversed(range(len(self.ups))):
            x = F.interpolate(self.ups[level](x), scale_factor=2.0, mode="nearest") + skips[level]
            x = self.decoder_blocks[level](x)
        return F.leaky_relu(x, 0.1)


class SideHead(nn.Module):
    """Kernels, masks and offsets of one side, from the trunk's features and the side's distance in time."""

    def __init__(self, in_channels: int, hidden_channels: int, num_taps: int) -> None:
        super().__init__()
        self.num_taps = num_taps
        self.hidden = nn.Conv2d(in_channels, hidden_channels, 3, padding=1)
        # The constant map s beside the features: its convolution is one value a channel, so that the features' part is
        # computed once for all times.
        self.time = nn.Parameter(torch.randn(hidden_channels) * 0.5)
        taps = num_taps * num_taps
        # v, h, mask, offset of each tap, and one flow that all taps share and that is proportional to s.
        self.split = (num_taps, num_taps, taps, 2 * taps, 2)
        self.out = nn.Conv2d(hidden_channels, sum(self.split), 3, padding=1)
        self._start_at_blending()

    def _start_at_blending(self) -> None:
        """The centre tap alone, half a mask, no motion: the untrained network averages the two frames."""
        with torch.no_grad():
            self.out.weight.mul_(0.1)
            bias = torch.zeros(sum(self.split))
            bias[self.num_taps // 2] = 1.0
            bias[self.num_taps + self.num_taps // 2] = 1.0
            self.out.bias = nn.Parameter(bias)

    def prepare(self, features_BCHW: torch.Tensor) -> torch.Tensor:
        """The part that does not depend on time."""
        return self.hidden(features_BCHW)

    def forward(self, prepared_BCHW: torch.Tensor, distance_B: torch.Tensor, size_HW: tuple[int, int]) -> SideKernels:
        """Kernels at twice the features' resolution, cropped to `size_HW`; `distance_B` is s, in 0..1."""
        distance = distance_B[:, None, None, None]
        hidden = F.leaky_relu(prepared_BCHW + distance * self.time[:, None, None], 0.1)
        raw = F.interpolate(self.out(hidden).float(), scale_factor=2.0, mode="bilinear", align_corners=False)
        raw = raw[:, :, : size_HW[0], : size_HW[1]]
        vertical, horizontal, mask, offsets, flow = raw.split(self.split, dim=1)
        offsets = offsets.unflatten(1, (2, -1)) + (8 * flow * distance)[:, :, None]
        return SideKernels(vertical, horizontal, mask.sigmoid(), offsets)


@dataclass(frozen=True, slots=True)
class PairFeatures:
    """What the trunk knows of a pair; every time between the two frames is synthesised from it."""

    first_BCHW: torch.Tensor
    second_BCHW: torch.Tensor
    prepared_first_BCHW: torch.Tensor
    prepared_second_BCHW: torch.Tensor
    bias_BCHW: torch.Tensor


class Interpolator(nn.Module):
    """Frames at any times between two frames, after EDSC (`edsc` module) with one trunk pass a pair."""

    centre_tap: torch.Tensor

    def __init__(self, config: InterpolatorConfig) -> None:
        super().__init__()
        self.config = config
        self.trunk = Trunk(config.widths)
        self.first_head = SideHead(config.widths[0], config.head_channels, config.num_taps)
        self.second_head = SideHead(config.widths[0], config.head_channels, config.num_taps)
        self.bias = nn.Conv2d(config.widths[0], 3, 3, padding=1)
        for parameter in self.bias.parameters():
            nn.init.zeros_(parameter)
        taps = config.num_taps**2
        self.register_buffer("centre_tap", F.one_hot(torch.tensor(taps // 2), taps).float(), persistent=False)

    def forward(
        self, first_BCHW: torch.Tensor, second_BCHW: torch.Tensor, interp_times_BT: torch.Tensor
    ) -> torch.Tensor:
        """Frames between, BTCHW, not clamped, from float32 BCHW in [0, 1] of any size and times in 0..1."""
        features = self.encode(first_BCHW, second_BCHW)
        return torch.stack([self.synthesize(features, times) for times in interp_times_BT.unbind(1)], dim=1)

    def encode(self, first_BCHW: torch.Tensor, second_BCHW: torch.Tensor) -> PairFeatures:
        """The part that does not depend on time. Pads inside; the frames may have any size."""
        height, width = first_BCHW.shape[-2:]
        padding = (0, -width % self.config.alignment, 0, -height % self.config.alignment)
        pair = F.pad(torch.cat([first_BCHW, second_BCHW], dim=1), padding, mode="replicate")
        features = self.trunk(pair - 0.5)
        bias = F.interpolate(self.bias(features).float(), scale_factor=2.0, mode="bilinear", align_corners=False)
        return PairFeatures(
            first_BCHW,
            second_BCHW,
            self.first_head.prepare(features),
            self.second_head.prepare(features),
            bias[:, :, :height, :width],
        )

    def synthesize(self, features: PairFeatures, interp_time_B: torch.Tensor) -> torch.Tensor:
        """The frame at time t of each pair: float32 BCHW."""
        size = (features.first_BCHW.shape[-2], features.first_BCHW.shape[-1])
        first = self.first_head(features.prepared_first_BCHW, interp_time_B, size)
        second = self.second_head(features.prepared_second_BCHW, 1 - interp_time_B, size)
        first_weights, second_weights = first.weights_BNHW(), second.weights_BNHW()
        # The operator does not normalise; what the two sides lack to a sum of 1 goes to the centre taps, so that a flat
        # region keeps its colour exactly instead of to the precision of learnt kernels.
        lacking = 1 - first_weights.sum(1, keepdim=True) - second_weights.sum(1, keepdim=True)
        share = 0.5 * lacking * self.centre_tap[:, None, None]
        out = features.bias_BCHW + sample_taps(features.first_BCHW, first_weights + share, first.offsets_B2NHW)
        return out + sample_taps(features.second_BCHW, second_weights + share, second.offsets_B2NHW)


def save_interpolator(model: Interpolator, folder: Path) -> None:
    """Write config.json and the weights as fp16 safetensors."""
    folder.mkdir(parents=True, exist_ok=True)
    record = {"architecture": ARCHITECTURE, **asdict(model.config)}
    (folder / CONFIG_FILE).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    state = {name: tensor.detach().to("cpu", torch.float16).contiguous() for name, tensor in model.state_dict().items()}
    save_file(state, folder / WEIGHTS_FILE)


def load_interpolator(folder: Path) -> Interpolator:
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
        config = InterpolatorConfig(**{**record, "widths": tuple(record["widths"])})
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise WeightsError(f"{config_path}: not a configuration of {ARCHITECTURE}: {error!r}") from error
    try:
        state = load_file(weights_path)
    except SafetensorError as error:
        raise WeightsError(f"{weights_path}: not a safetensors file: {error}") from error
    model = Interpolator(config)
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in state.items()}
    problems = [f"missing {name}" for name in sorted(expected.keys() - found.keys())]
    problems += [f"unexpected {name}" for name in sorted(found.keys() - expected.keys())]
    problems += [
        f"{name} is {found[name]}, should be {expected[name]}"
        for name in sorted(expected.keys() & found.keys())
        if found[name] != expected[name]
    ]
    if problems:
        raise WeightsError(f"{weights_path} does not fit {config_path}: {'; '.join(problems)}")
    model.load_state_dict(state)
    return model.eval()
