"""From an untrained autoencoder to a packaged family: every recipe takes a step, and the stages load what comes out."""

import random
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderDC
from safetensors.torch import load_file

from magicvideo_core.config import load_config
from magicvideo_core.config.weights import EMBEDDED_FOLDER
from magicvideo_core.errors import ConfigError, WeightsError
from magicvideo_core.prompts import clip_of_prompt
from magicvideo_core.stages.base import StageItem
from magicvideo_core.stages.registry import create_stage
from magicvideo_core.training import package
from magicvideo_core.training.data import MovingShapes
from magicvideo_core.training.loop import TrainingSettings, run_training
from magicvideo_core.training.modules import parse_mixture, train
from magicvideo_core.training.t2i import TextToImageRecipe
from magicvideo_core.training.vae import VaeRecipe, with_deeper_decoder
from magicvideo_core.training.video import Mixture, VideoRecipe, _chosen_frames

SETTINGS = TrainingSettings(steps=2, warmup_steps=1, log_every=1, checkpoint_every=2, threads=1)


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("family")
    run_training(VaeRecipe(batch_size=4), SETTINGS, root / "vae")
    run_training(TextToImageRecipe(root / "vae", batch_sizes={64: 2, 128: 1}), SETTINGS, root / "t2i")
    sizes = {"i2v": 1, "v2v": 1, "image64": 1, "image128": 1}
    mixture = Mixture(shares=dict.fromkeys(sizes, 1.0), batch_sizes=sizes, frames_per_clip={"i2v": 3, "v2v": 3})
    recipe = VideoRecipe(root, mixture=mixture)
    before = {name: each.detach().clone() for name, each in recipe.modules.named_parameters()}
    for kind in sizes:
        recipe.mixture = Mixture(shares={kind: 1.0}, batch_sizes=sizes, frames_per_clip={"i2v": 3, "v2v": 3})
        run_training(recipe, TrainingSettings(steps=1, warmup_steps=1, threads=1), root / kind)
    changed = {name.split(".")[0] for name, each in recipe.modules.named_parameters() if not each.equal(before[name])}
    assert changed == set(recipe.modules)
    recipe.save(root / "all")
    return root / "all"


def test_the_stages_load_a_trained_family(family: Path) -> None:
    parts = ("motion_adapter", "controlnet", "ip_adapter", "image_encoder")
    overrides = [f"i2v.{part}={family / 'i2v' / part}" for part in parts]
    config = load_config("tiny", None, [f"i2v.weights={family / 't2i'}", "i2v.num_inference_steps=1", *overrides])
    stage = create_stage("i2v", config)
    stage.load("cpu")
    image = torch.randint(0, 255, (128, 128, 3), dtype=torch.uint8).numpy()
    frames = stage.process([StageItem(clip_of_prompt("a red circle growing", 1), image)])[0].frames_THWC_u8
    assert frames is not None
    assert frames.shape == (16, 64, 64, 3)


def test_a_family_is_packaged_as_fp16_within_the_limit(family: Path, tmp_path: Path, monkeypatch) -> None:
    total = package.package_family(family, tmp_path)
    assert total <= package.MAX_BYTES
    tensors = load_file(tmp_path / "t2i" / "unet" / "diffusion_pytorch_model.safetensors")
    assert {each.dtype for each in tensors.values()} == {torch.float16}
    assert str(family.parent) not in (tmp_path / "t2i" / "unet" / "config.json").read_text()
    monkeypatch.setattr(package, "MAX_BYTES", total - 1)
    with pytest.raises(WeightsError, match="the limit is"):
        package.package_family(family, tmp_path)


def test_training_frames_begin_with_the_reference_and_ascend() -> None:
    for count in (2, 5, 8, 16):
        chosen = _chosen_frames(count, random.Random(count))
        assert chosen[0] == 0
        assert chosen == sorted(set(chosen))
        assert len(chosen) == count


def test_what_i2v_paints_for_v2v_to_repair_is_about_the_clip_that_was_noised() -> None:
    mixture = Mixture(shares={"v2v": 1.0}, batch_sizes={"v2v": 6})
    recipe = VideoRecipe(EMBEDDED_FOLDER, mixture=mixture, reference_dropout=0.0)
    frames = [0, 5, 10, 15]
    clips = MovingShapes(caption_dropout=0.0).clips(6, random.Random(1))
    painted = recipe.painter.keyframes(clips, frames, 64, random.Random(0), torch.Generator().manual_seed(0))
    shown = clips.show(frames, 64)
    frozen = shown.frames_NCHW[:: len(frames)].repeat_interleave(len(frames), dim=0)
    error, frozen_error = ((each - shown.frames_NCHW).square().mean() for each in (painted, frozen))
    assert 0 < error < frozen_error / 2


def test_a_decoder_is_trained_on_without_a_change_to_the_latents(family: Path, tmp_path: Path) -> None:
    before = AutoencoderDC.from_pretrained(family / "t2i" / "vae")
    train("vae", tmp_path, base=family, steps=2, parts=6, threads=1)
    after = AutoencoderDC.from_pretrained(tmp_path / "vae")
    images = torch.rand(1, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        latents = before.encode(images).latent
        assert after.encode(images).latent.equal(latents)
        # Blocks that were added begin by adding nothing; training has changed what comes out.
        assert with_deeper_decoder(before).decode(latents).sample.equal(before.decode(latents).sample)
        assert not after.decode(latents).sample.equal(before.decode(latents).sample)
    assert after.config.decoder_layers_per_block > before.config.decoder_layers_per_block
    with pytest.raises(ConfigError, match="holds t2i/vae/"):
        train("vae", tmp_path / "out", base=tmp_path)


def test_wrong_requests_name_what_to_change(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds vae/"):
        train("t2i", tmp_path / "out", base=tmp_path)
    with pytest.raises(ConfigError, match="Unknown module 'gan'"):
        train("gan", tmp_path / "out")
    with pytest.raises(ConfigError, match="'i2v=x'"):
        parse_mixture("image64=1,i2v=x")
    with pytest.raises(ConfigError, match="vfi takes no --learning-rate"):
        train("vfi", tmp_path / "out", learning_rate=1e-3)
    with pytest.raises(ConfigError, match="vae takes no --mixture"):
        train("vae", tmp_path / "out", mixture={"image64": 1.0})
    with pytest.raises(ConfigError, match="only image64 and image128"):
        train("t2i", tmp_path / "out", mixture={"i2v": 1.0})
    assert not (tmp_path / "out").exists()
