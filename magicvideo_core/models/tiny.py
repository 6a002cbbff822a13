"""Builds the untrained embedded family from diffusers and transformers components, at small size.

Every component is the class that open weights use (SD1.5, AnimateDiff, IP-Adapter-plus, ControlNet), so the same stages
load either. The spatial layers are one `UNet2DConditionModel`: T2I uses it as it is, I2V and V2V inflate it with a motion
adapter of their own. Noise schedule: cosine, the network predicts the clean latent (`prediction_type="sample"`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers import ControlNetModel, DPMSolverMultistepScheduler, MotionAdapter, UNet2DConditionModel
from diffusers.models.embeddings import IPAdapterPlusImageProjection
from torch import nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    PreTrainedTokenizerFast,
)

from magicvideo_core.models.latents import resized
from magicvideo_core.moving_shapes.captions import VOCABULARY

CHANNELS = (80, 128)
LATENT_CHANNELS = 32
TEXT_WIDTH = 128
IMAGE_WIDTH = 64
IMAGE_TOKENS = 8
TIME_ID_WIDTH = 32
MAX_PROMPT_TOKENS = 24
SPECIAL_TOKENS = ("<pad>", "<bos>", "<unk>", "<eos>")
MOTION_FRAMES = 32


def build_tokenizer(words: Sequence[str] = VOCABULARY) -> PreTrainedTokenizerFast:
    """One token for each of `words` (lower case); anything else is `<unk>`."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    vocabulary = {word: index for index, word in enumerate((*SPECIAL_TOKENS, *words))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[("<bos>", vocabulary["<bos>"]), ("<eos>", vocabulary["<eos>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<bos>",
        unk_token="<unk>",
        eos_token="<eos>",
        model_max_length=MAX_PROMPT_TOKENS,
    )


def build_text_encoder(words: Sequence[str] = VOCABULARY) -> CLIPTextModel:
    """A CLIP text encoder, 128 wide, 2 layers, over the word-level vocabulary of `words`."""
    config = CLIPTextConfig(
        vocab_size=len(SPECIAL_TOKENS) + len(words),
        hidden_size=TEXT_WIDTH,
        intermediate_size=4 * TEXT_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=MAX_PROMPT_TOKENS,
        projection_dim=TEXT_WIDTH,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=3,
    )
    encoder = CLIPTextModel(config)
    with torch.no_grad():
        # CLIP's initial embeddings are tiny (0.02): words bind to attributes sooner from a larger start.
        encoder.get_input_embeddings().weight.mul_(10)
    return encoder


def build_unet() -> UNet2DConditionModel:
    """The spatial layers: two resolutions, attention at the lower one, the pooled prompt beside the tokens."""
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=CHANNELS,
        layers_per_block=1,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,
        norm_num_groups=16,
        addition_embed_type="text_time",
        addition_time_embed_dim=TIME_ID_WIDTH,
        projection_class_embeddings_input_dim=TEXT_WIDTH + 2 * TIME_ID_WIDTH,
    )


def build_motion_adapter() -> MotionAdapter:
    """Temporal attention after every spatial block; `proj_out` is zero, so that inflation changes nothing at first."""
    adapter = MotionAdapter(
        block_out_channels=CHANNELS,
        motion_layers_per_block=1,
        motion_mid_block_layers_per_block=1,
        motion_num_attention_heads=4,
        motion_norm_num_groups=16,
        motion_max_seq_length=MOTION_FRAMES,
        use_motion_mid_block=True,
    )
    for name, module in adapter.named_modules():
        if name.endswith("proj_out"):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
    return adapter


def build_controlnet(unet: UNet2DConditionModel) -> ControlNetModel:
    """ControlNet over the reference RGB: convolutions only; its residual blocks start as copies of the UNet's."""
    controlnet = ControlNetModel(
        in_channels=LATENT_CHANNELS,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        mid_block_type="UNetMidBlock2D",
        block_out_channels=CHANNELS,
        layers_per_block=1,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,
        norm_num_groups=16,
        conditioning_embedding_out_channels=(16, 24, 48, 80),
    )
    own, source = controlnet.state_dict(), unet.state_dict()
    shared = {name: value for name, value in source.items() if name in own and own[name].shape == value.shape}
    controlnet.load_state_dict({**own, **shared})
    # diffusers starts the condition's embedding at zero, and its default layers before that shrink their input to 1e-4 of
    # what it was: at this size the reference would never be heard. SiLU halves small inputs, hence a gain of 2.
    for module in controlnet.controlnet_cond_embedding.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.orthogonal_(module.weight, gain=2.0)
            assert module.bias is not None
            nn.init.zeros_(module.bias)
    return controlnet


def build_image_encoder() -> CLIPVisionModelWithProjection:
    """A CLIP vision encoder over 64x64 images: 8-pixel patches, 64 wide, 2 layers."""
    return CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=IMAGE_WIDTH,
            intermediate_size=4 * IMAGE_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            image_size=64,
            patch_size=8,
            projection_dim=IMAGE_WIDTH,
        )
    )


def build_image_projection() -> IPAdapterPlusImageProjection:
    """The resampler of IP-Adapter-plus: penultimate patch features to 8 tokens."""
    # Depth 4 and heads of 64 are what diffusers' loader of the hub layout assumes.
    return IPAdapterPlusImageProjection(
        embed_dims=IMAGE_WIDTH,
        output_dims=TEXT_WIDTH,
        hidden_dims=64,
        depth=4,
        dim_head=64,
        heads=1,
        num_queries=IMAGE_TOKENS,
    )


def build_scheduler() -> DPMSolverMultistepScheduler:
    """SDE-DPM-Solver++(2M) on the cosine schedule, for a network that predicts the clean latent.

    New noise at every step lets a small network mend its first guesses: docs/training.md has the figures.
    """
    return DPMSolverMultistepScheduler(
        num_train_timesteps=1000,
        beta_schedule="squaredcos_cap_v2",
        prediction_type="sample",
        algorithm_type="sde-dpmsolver++",
        solver_order=2,
        timestep_spacing="trailing",
        final_sigmas_type="zero",
    )


def image_encoder_input(image_NCHW: torch.Tensor) -> torch.Tensor:
    """RGB in [0, 1] as the embedded image encoder takes it: 64x64, in [-1, 1]."""
    return resized(image_NCHW, 64) * 2 - 1
