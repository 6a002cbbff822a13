"""Tiny random checkpoints in the hub layouts of SD1.5, AnimateDiff, IP-Adapter-plus and ControlNet go through the stages."""

import json
import re

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    ControlNetModel,
    MotionAdapter,
    PNDMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from diffusers.models.embeddings import IPAdapterPlusImageProjection
from safetensors.torch import save_file
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from magicvideo_core.config import load_config
from magicvideo_core.errors import WeightsError
from magicvideo_core.models import ip_adapter
from magicvideo_core.prompts import clip_of_prompt
from magicvideo_core.stages.base import StageItem
from magicvideo_core.stages.registry import create_stage

WIDTH, SIZE, FRAMES = 32, 72, 3  # latents of 9x9: odd, as 600 and 1048 pixels give 75x75 and 131x131
CHANNELS = (16, 32, 32, 32)  # SD1.5 has 320, 640, 1280, 1280: its four levels are kept


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    return make_hub(tmp_path_factory.mktemp("hub"), layers=2, heads=8)


def make_hub(root, layers, heads):
    """A folder with base/, motion/, controlnet/, ip-adapter-plus_sd15.safetensors and image_encoder/."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=9,
        block_out_channels=CHANNELS,
        layers_per_block=layers,
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        cross_attention_dim=WIDTH,
        attention_head_dim=heads,
        norm_num_groups=8,
    )
    vae = AutoencoderKL(
        block_out_channels=(8, 8, 16, 16),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        norm_num_groups=4,
    )
    words = ["<|startoftext|>", "<|endoftext|>", "a", "a</w>", "r", "e", "d</w>", "re", "red</w>"]
    folder = root / "base" / "tokenizer"
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps({word: index for index, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\nr e\nre d</w>\n")
    tokenizer = CLIPTokenizer.from_pretrained(folder, model_max_length=16)
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(words),
            hidden_size=WIDTH,
            intermediate_size=WIDTH,
            num_hidden_layers=1,
            num_attention_heads=4,
            max_position_embeddings=16,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=1,
        )
    )
    scheduler = PNDMScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, skip_prk_steps=True, steps_offset=1
    )
    StableDiffusionPipeline(
        vae, text_encoder, tokenizer, unet, scheduler, None, None, requires_safety_checker=False
    ).save_pretrained(root / "base")
    MotionAdapter(
        block_out_channels=CHANNELS,
        motion_layers_per_block=layers,
        motion_num_attention_heads=heads,
        motion_norm_num_groups=8,
        motion_max_seq_length=32,
        use_motion_mid_block=False,
    ).save_pretrained(root / "motion")
    ControlNetModel.from_unet(unet, conditioning_channels=3).save_pretrained(root / "controlnet")
    resampler = IPAdapterPlusImageProjection(
        embed_dims=WIDTH, output_dims=WIDTH, hidden_dims=64, heads=1, num_queries=16
    )
    save_file(ip_adapter.to_hub_layout(resampler, unet), root / "ip-adapter-plus_sd15.safetensors")
    CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=WIDTH,
            intermediate_size=WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            image_size=28,
            patch_size=14,
            projection_dim=WIDTH,
        )
    ).save_pretrained(root / "image_encoder")
    return root


def _config(hub, *more):
    names = {
        "weights": "base",
        "motion_adapter": "motion",
        "controlnet": "controlnet",
        "ip_adapter": "ip-adapter-plus_sd15.safetensors",
        "image_encoder": "image_encoder",
    }
    overrides = [f"t2i.weights={hub / 'base'}", f"t2i.height={SIZE}", f"t2i.width={SIZE}", "t2i.num_inference_steps=2"]
    overrides += ["t2i.first_pass_scale=1.0"]
    for stage in ("i2v", "v2v"):
        overrides += [f"{stage}.{key}={hub / name}" for key, name in names.items()]
        overrides += [f"{stage}.{key}={SIZE}" for key in ("height", "width")]
        overrides += [f"{stage}.num_frames={FRAMES}", f"{stage}.num_inference_steps=2"]
    return load_config("tiny", None, [*overrides, *more])


def _run(name, config, **inputs):
    stage = create_stage(name, config)
    stage.load("cpu")
    outcome = stage.process([StageItem(clip_of_prompt("a red", 7), **inputs)])[0]
    stage.close()
    assert outcome.error is None
    return outcome.frames_THWC_u8


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
def test_a_clip_goes_from_prompt_to_refined_frames(hub):
    config = _config(hub, "i2v.noise_prior_timestep=980")
    image = _run("t2i", config)[0]
    assert image.shape == (SIZE, SIZE, 3)
    keyframes = _run("i2v", config, reference_image_HWC_u8=image)
    assert keyframes.shape == (FRAMES, SIZE, SIZE, 3)
    refined = _run("v2v", config, reference_image_HWC_u8=image, frames_THWC_u8=keyframes)
    assert refined.shape == (FRAMES, SIZE, SIZE, 3)
    again = _run("v2v", config, reference_image_HWC_u8=image, frames_THWC_u8=keyframes)
    assert np.array_equal(refined, again)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
def test_sizes_of_the_paper_keep_their_odd_latents(tmp_path):
    # 32 frames of 600 pixels: latents of 75x75, which no level of the UNet halves evenly; 32 is AnimateDiff's maximum.
    sizes = [f"{stage}.{key}=600" for stage in ("i2v", "v2v") for key in ("height", "width")]
    once = [f"{stage}.{key}" for stage in ("i2v", "v2v") for key in ("num_inference_steps=1", "guidance_scale=1.0")]
    frames = ["i2v.num_frames=32", "v2v.num_frames=32", "v2v.strength=1.0"]
    hub = make_hub(tmp_path, layers=1, heads=1)
    config = _config(hub, *sizes, *once, *frames, "i2v.noise_prior_timestep=980")
    image = np.random.default_rng(0).integers(0, 256, (1024, 1024, 3), dtype=np.uint8)
    keyframes = _run("i2v", config, reference_image_HWC_u8=image)
    assert keyframes.shape == (32, 600, 600, 3)
    refined = _run("v2v", config, reference_image_HWC_u8=image, frames_THWC_u8=keyframes)
    assert refined.shape == (32, 600, 600, 3)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
def test_an_adapter_of_other_blocks_is_refused(hub, tmp_path):
    ControlNetModel.from_pretrained(hub / "controlnet").save_pretrained(tmp_path / "controlnet")
    path = tmp_path / "controlnet" / "config.json"
    changed = {**json.loads(path.read_text()), "cross_attention_dim": WIDTH * 2}
    path.write_text(json.dumps(changed))
    stage = create_stage("i2v", _config(hub, f"i2v.controlnet={tmp_path / 'controlnet'}"))
    with pytest.raises(WeightsError, match="controlnet"):
        stage.load("cpu")


def test_a_pipeline_with_parts_missing_is_refused(tmp_path):
    (tmp_path / "model_index.json").write_text(
        '{"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"]}'
    )
    stage = create_stage("t2i", load_config("tiny", None, [f"t2i.weights={tmp_path}"]))
    with pytest.raises(WeightsError, match=re.escape(str(tmp_path))):
        stage.load("cpu")
