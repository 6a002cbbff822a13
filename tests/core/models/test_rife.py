"""RIFE's layout: random weights under the public names, strict loading, and the frames that known weights must give."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from magicvideo_core.config import load_config
from magicvideo_core.errors import WeightsError
from magicvideo_core.models.rife import RIFE_4_24, RIFE_4_25, Rife, RifeConfig, load_rife, our_names
from magicvideo_core.stages.registry import create_stage
from magicvideo_core.stages.rife import RifeStage

NARROW_4_24 = RifeConfig(widths=(8, 8, 8, 4), look_width=8, look_channels=8, outputs=6)
NARROW_4_25 = RifeConfig(widths=(8, 8, 4, 4, 4), look_width=4, look_channels=4, outputs=13)


def public_shapes(config: RifeConfig, carried: int) -> dict[str, tuple[int, ...]]:
    """The layout as the public files have it, written down beside the implementation."""
    look, seen = config.look_width, 7 + 2 * config.look_channels
    shapes: dict[str, tuple[int, ...]] = {}

    def conv(name: str, *weight: int, bias: int | None = None) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = weight, (bias or weight[0],)

    conv("encode.cnn0", look, 3, 3, 3)
    conv("encode.cnn1", look, look, 3, 3)
    conv("encode.cnn2", look, look, 3, 3)
    conv("encode.cnn3", look, config.look_channels, 4, 4, bias=config.look_channels)
    for index, width in enumerate(config.widths):
        conv(f"block{index}.conv0.0.0", width // 2, seen + (5 + carried if index else 0), 3, 3)
        conv(f"block{index}.conv0.1.0", width, width // 2, 3, 3)
        for block in range(8):
            shapes[f"block{index}.convblock.{block}.beta"] = (1, width, 1, 1)
            conv(f"block{index}.convblock.{block}.conv", width, width, 3, 3)
        conv(f"block{index}.lastconv.0", width, 4 * config.outputs, 4, 4, bias=4 * config.outputs)
    return shapes


def random_state(config: RifeConfig, carried: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.randn(shape, generator=generator) * 0.1 for name, shape in public_shapes(config, carried).items()
    }


@pytest.mark.parametrize(("config", "carried"), [(RIFE_4_24, 0), (RIFE_4_25, 8)])
def test_the_public_layouts_fit_name_by_name(config: RifeConfig, carried: int) -> None:
    with torch.device("meta"):
        expected = Rife(config).state_dict()
        found = our_names({name: torch.empty(shape) for name, shape in public_shapes(config, carried).items()})
    assert {name: each.shape for name, each in expected.items()} == {name: each.shape for name, each in found.items()}


@pytest.mark.parametrize(("config", "carried", "suffix"), [(NARROW_4_24, 0, ".pkl"), (NARROW_4_25, 8, ".safetensors")])
def test_files_load_and_make_frames_of_any_size(tmp_path: Path, config: RifeConfig, carried: int, suffix: str) -> None:
    state = {f"module.{name}": each for name, each in random_state(config, carried).items()}
    state["module.teacher.conv0.0.0.weight"] = torch.zeros(1)
    path = tmp_path / f"flownet{suffix}"
    torch.save(state, path) if suffix == ".pkl" else save_file(state, path)
    model = load_rife(tmp_path)
    assert model.config == config and not model.training
    first, second = torch.rand(2, 2, 3, 37, 50, generator=torch.Generator().manual_seed(1)).unbind(0)
    with torch.inference_mode():
        features = model.encode(first, second)
        frames = model.synthesize(features, torch.tensor([1 / 3, 2 / 3]))
        alone = model.synthesize(model.encode(first[1:], second[1:]), torch.tensor([2 / 3]))
    assert frames.shape == (2, 3, 37, 50) and torch.isfinite(frames).all()
    assert torch.allclose(frames[1:], alone, atol=1e-5)


def test_flow_and_mask_mean_what_they_should() -> None:
    """With weights of zero a level says its bias: the first flow 2 px along x, the second 4 px up, the mask 3 to 1."""
    model = Rife(NARROW_4_25)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        # Coarse to fine a level's flow is counted in its own pixels; 4 sub-pixels a channel.
        for level, name in ((model.levels[1], 0), (model.levels[4], 3)):
            scale = {0: 8, 3: 1}[name]
            level.up.bias[4 * name : 4 * name + 4] = {0: 2.0, 3: -4.0}[name] / scale
        model.levels[4].up.bias[16:20] = float(np.log(3))
        first, second = torch.rand(2, 1, 3, 64, 64, generator=torch.Generator().manual_seed(1)).unbind(0)
        frame = model.synthesize(model.encode(first, second), torch.tensor([0.5]))
    expected = 0.75 * first[..., 8:-8, 10:-6] + 0.25 * second[..., 4:-12, 8:-8]
    assert torch.allclose(frame[..., 8:-8, 8:-8], expected, atol=1e-5)


def test_what_does_not_fit_is_listed(tmp_path: Path) -> None:
    state = random_state(NARROW_4_25, 8)
    del state["block2.conv0.1.0.bias"]
    state["block9x.weight"] = torch.zeros(1)
    state["encode.cnn1.weight"] = torch.zeros(4, 4, 1, 1)
    save_file(state, tmp_path / "flownet.safetensors")
    wrong = r"missing levels\.2\.down\.1\.bias; unexpected block9x\.weight; look\.layers\.1\.weight is \(4, 4, 1, 1\)"
    with pytest.raises(WeightsError, match=wrong):
        load_rife(tmp_path)
    save_file({"conv.weight": torch.zeros(1)}, tmp_path / "flownet.safetensors")
    with pytest.raises(WeightsError, match=r"layout: it has no 'look\.layers"):
        load_rife(tmp_path / "flownet.safetensors")


def test_a_file_that_runs_code_or_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"should hold one file .* holds none"):
        load_rife(tmp_path)
    torch.save({"a": Path("x")}, tmp_path / "flownet.pkl")
    with pytest.raises(WeightsError, match="as tensors alone"):
        load_rife(tmp_path)
    (tmp_path / "flownet.pkl").write_bytes(b"none")
    with pytest.raises(WeightsError, match="as tensors alone"):
        load_rife(tmp_path)


def test_the_backend_is_a_setting(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"vfi\.weights = 'tiny': backend rife reads a local file"):
        create_stage("vfi", load_config(overrides=["vfi.backend=rife"])).load("cpu")
    path = tmp_path / "flownet.safetensors"
    save_file(random_state(NARROW_4_24, 0), path)
    stage = create_stage("vfi", load_config(overrides=["vfi.backend=rife", f"vfi.weights={path}"]))
    assert isinstance(stage, RifeStage)
    stage.load("cpu")
    given = np.random.default_rng(0).integers(100, 120, (2, 20, 30, 3), dtype=np.uint8)
    frames = np.stack(list(stage.interpolate(given, 3)))
    assert frames.shape == (4, 20, 30, 3)
    np.testing.assert_array_equal(frames[::3], given)
