"""Trains the video side of the family: image-to-video and video-to-video, jointly with images (MagicVideo-V2, section 2.2).

Both video UNets and the text-to-image UNet use the same spatial layers, by reference; each video UNet has motion modules of
its own. Images stay in the mixture, so that the spatial layers keep the quality that stills give.

Shape suffixes: N clips, F frames, C channels, H, W pixels or latent size.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from diffusers import ControlNetModel, MotionAdapter, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import CLIPVisionModelWithProjection

from magicvideo_core.models import ip_adapter
from magicvideo_core.models.latents import encode, resized
from magicvideo_core.models.spatial import inflate, motion_state, share_spatial_layers
from magicvideo_core.models.tiny import (
    build_controlnet,
    build_image_encoder,
    build_image_projection,
    build_motion_adapter,
)
from magicvideo_core.training.binding import BINDING_WEIGHT, binding_loss, watched_cross_attention
from magicvideo_core.training.data import NUM_KEYFRAMES, Data
from magicvideo_core.training.diffusion import (
    MAX_DEGRADED_WEIGHT,
    add_noise,
    latent_weights,
    sample_early_timesteps,
    sample_timesteps,
    second_pass_source,
    weighted_error,
)
from magicvideo_core.training.painter import Painter, unfold
from magicvideo_core.training.t2i import TextToImageRecipe
from magicvideo_core.training.text import MOTION_TOLD_WEIGHT, motion_told_loss

PIXELS = {"i2v": 64, "v2v": 128}
REFERENCE_DROPOUT = 0.1
V2V_MAX_TIMESTEP = 800
TEXTURE_WEIGHT = 4.0
# Below MOTION_MIN_TIMESTEP the noised frames themselves show where each object is: only above it is motion learned. What the
# first step at the top of the schedule decides (which way, how far), no later step takes back. Textures, also of what turns,
# are learnt below.
MOTION_MIN_TIMESTEP = 900
MOTION_SHARE = 0.13
FIRST_STEP_MIN_TIMESTEP = 980
FIRST_STEP_SHARE = 0.22
# How often V2V's source is what I2V paints.
PAINTED_SHARE = 0.7


@dataclass(frozen=True, slots=True)
class Mixture:
    """How often each kind of batch comes (relative), and how many images or clips it has."""

    shares: Mapping[str, float]
    batch_sizes: Mapping[str, int]
    frames_per_clip: Mapping[str, int] = field(default_factory=lambda: {"i2v": 5, "v2v": 8})
    """Fewer than 16: each clip shows that many of its keyframes, drawn anew, at their own temporal positions."""


class VideoRecipe:
    """Joint training of the modules that `mixture` names; what it does not name keeps its weights."""

    def __init__(
        self,
        base: Path,
        *,
        mixture: Mixture,
        train_spatial: bool = True,
        data: Data | None = None,
        reference_dropout: float = REFERENCE_DROPOUT,
    ) -> None:
        """`base`: a folder with t2i/ (required) and, where training continues, i2v/ and v2v/, in the layout of `save`.

        `reference_dropout`: how often a clip goes without its image tokens, and without its ControlNet, each by itself.
        """
        self.mixture = mixture
        self.images = TextToImageRecipe(base / "t2i", batch_sizes={64: 1}, data=data)
        unet = self.images.unet
        first = inflate(unet, _load_or_build_adapter(base / "i2v" / "motion_adapter"))
        second = inflate(unet, _load_or_build_adapter(base / "v2v" / "motion_adapter", base / "i2v" / "motion_adapter"))
        self.video_unets = {"i2v": first, "v2v": second}
        appearance = base / "i2v" / "ip_adapter" / "ip-adapter-plus.safetensors"
        state = (
            load_file(appearance) if appearance.exists() else ip_adapter.to_hub_layout(build_image_projection(), unet)
        )
        ip_adapter.attach(first, state)
        share_spatial_layers(first, second)
        share_spatial_layers(first, unet)
        second.encoder_hid_proj = first.encoder_hid_proj
        second.config.encoder_hid_dim_type = "ip_image_proj"
        controlnet, image_encoder = base / "i2v" / "controlnet", base / "i2v" / "image_encoder"
        self.controlnet = ControlNetModel.from_pretrained(controlnet) if controlnet.exists() else build_controlnet(unet)
        self.image_encoder = (
            CLIPVisionModelWithProjection.from_pretrained(image_encoder)
            if image_encoder.exists()
            else build_image_encoder()
        )
        self.painter = Painter(self.images, self.video_unets, self.controlnet, self.image_encoder, reference_dropout)
        self.modules = nn.ModuleDict({"motion_i2v": _motion_modules(first), "motion_v2v": _motion_modules(second)})
        self.modules["appearance"] = _appearance_modules(first)
        # Parameters count under the first name that reaches them: what is left for this one are the spatial layers.
        self.modules["spatial"] = first
        self.modules["text_encoder"] = self.images.text_encoder
        self.modules["controlnet"] = self.controlnet
        self.modules["image_encoder"] = self.image_encoder
        self.learning_rate_scales: Mapping[str, float] = {"controlnet": 1.5, "motion_i2v": 1.3, "motion_v2v": 1.3}
        self._freeze(train_spatial)

    def _freeze(self, train_spatial: bool) -> None:
        """Leave gradients only where the mixture reaches, so that nothing else decays."""
        trains_i2v = "i2v" in self.mixture.shares
        self.modules.train()
        self.modules["spatial"].requires_grad_(train_spatial)
        self.modules["text_encoder"].requires_grad_(train_spatial)
        self.modules["motion_i2v"].requires_grad_(trains_i2v)
        self.modules["motion_v2v"].requires_grad_("v2v" in self.mixture.shares)
        for name in ("appearance", "controlnet", "image_encoder"):
            self.modules[name].requires_grad_(trains_i2v)
        # The head that only pooled CLIP outputs use takes no part here.
        self.image_encoder.visual_projection.requires_grad_(False)

    # ---- losses -----------------------------------------------------------------------------------------------------

    def loss(self, rng: random.Random, generator: torch.Generator) -> tuple[torch.Tensor, dict[str, float]]:
        kind = rng.choices(list(self.mixture.shares), list(self.mixture.shares.values()))[0]
        count = self.mixture.batch_sizes[kind]
        if kind.startswith("image"):
            loss, metrics = self._image_loss(int(kind.removeprefix("image")), count, rng, generator)
        else:
            loss, metrics = self._video_loss(kind, count, rng, generator)
        return loss, {f"loss_{kind}": float(loss.detach()), **metrics}

    def _image_loss(
        self, pixels: int, count: int, rng: random.Random, generator: torch.Generator
    ) -> tuple[torch.Tensor, dict[str, float]]:
        def without_reference(latents, timesteps, prompt_embeds, added_cond_kwargs):  # type: ignore[no-untyped-def]
            # The shared attention layers carry image K/V now: an empty list of image tokens leaves them out.
            return self.images.unet(latents, timesteps, (prompt_embeds, []), added_cond_kwargs=added_cond_kwargs)

        return self.images.image_loss(pixels, count, rng, generator, without_reference)  # type: ignore[arg-type]

    def _video_loss(
        self, kind: str, count: int, rng: random.Random, generator: torch.Generator
    ) -> tuple[torch.Tensor, dict[str, float]]:
        pixels = PIXELS[kind]
        clips = self.images.data.clips(count, rng)
        chosen = _chosen_frames(self.mixture.frames_per_clip[kind], rng)
        shown = clips.show(chosen, pixels)
        folded = encode(self.images.vae, shown.frames_NCHW)
        latents = unfold(folded, count)
        weights = unfold(latent_weights(shown, texture_weight=TEXTURE_WEIGHT), count)
        noise = torch.randn(latents.shape, generator=generator)
        guide = self.painter.guide(clips.captions, shown.frames_NCHW[:: len(chosen)], chosen, rng)
        if kind == "i2v":
            noise = self.painter.with_prior(noise, guide.reference_NCHW, rng)
            timesteps = sample_early_timesteps(
                count,
                rng,
                generator,
                shares={FIRST_STEP_MIN_TIMESTEP: FIRST_STEP_SHARE, MOTION_MIN_TIMESTEP: MOTION_SHARE},
                mean=0.0,
            )
            batch = add_noise(latents, noise, timesteps, self.images.scheduler)
        else:
            timesteps = sample_timesteps(count, generator, mean=0.4, high=V2V_MAX_TIMESTEP)
            if rng.random() < PAINTED_SHARE:
                keyframes = self.painter.keyframes(clips, chosen, PIXELS["i2v"], rng, generator)
                source, max_weight = encode(self.images.vae, resized(keyframes, pixels)), MAX_DEGRADED_WEIGHT
                source = _partly_repaired(source, folded, timesteps, rng)
            else:
                source, max_weight = second_pass_source(folded, self.images.vae, shown, len(chosen), rng, generator)
            batch = add_noise(unfold(source, count), noise, timesteps, self.images.scheduler, max_weight=max_weight)
        told = shown.told()
        with watched_cross_attention(self.video_unets[kind], watch=told is not None) as maps:
            predicted = self.painter.predict(kind, batch.noisy, timesteps, guide)
        error = weighted_error(predicted, latents, batch.loss_weights_N, weights)
        loss = error + MOTION_TOLD_WEIGHT * motion_told_loss(guide.pooled, clips.captions)
        if told is None:
            return loss, {}
        # At any noise level: where each object begins, the reference shows.
        bound = binding_loss(maps, told, timesteps.repeat_interleave(len(chosen)), max_timestep=1000)
        return loss + BINDING_WEIGHT * bound, {f"binding_{kind}": float(bound.detach())}

    # ---- storage ------------------------------------------------------------------------------------------------------

    def save(self, directory: Path) -> None:
        """Store t2i/, i2v/ and v2v/ in the hub layouts of their components."""
        first, second = self.video_unets["i2v"], self.video_unets["v2v"]
        spatial = UNet2DConditionModel.from_config(self.images.unet.config)
        spatial.load_state_dict(
            {name: value for name, value in self.images.unet.state_dict().items() if ".processor." not in name}
        )
        shared, self.images.unet = self.images.unet, spatial
        self.images.save(directory / "t2i")
        self.images.unet = shared
        for name, unet in (("i2v", first), ("v2v", second)):
            adapter = build_motion_adapter()
            adapter.load_state_dict(motion_state(unet))
            adapter.save_pretrained(directory / name / "motion_adapter")
        self.controlnet.save_pretrained(directory / "i2v" / "controlnet")
        self.image_encoder.save_pretrained(directory / "i2v" / "image_encoder")
        statistics = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
        (directory / "i2v" / "image_encoder" / "preprocessor_config.json").write_text(json.dumps(statistics))
        target = directory / "i2v" / "ip_adapter" / "ip-adapter-plus.safetensors"
        target.parent.mkdir(parents=True, exist_ok=True)
        save_file(ip_adapter.to_hub_layout(first.encoder_hid_proj.image_projection_layers[0], first), target)


def _chosen_frames(count: int, rng: random.Random) -> list[int]:
    """`count` of the keyframes' indices, ascending: the first, which is the reference itself, and one from each of
    `count` - 1 equal stretches of the others."""
    edges = [1 + (NUM_KEYFRAMES - 1) * n / (count - 1) for n in range(count)] if count > 1 else []
    return [0, *(rng.randrange(round(low), round(high)) for low, high in pairwise(edges))]


def _partly_repaired(
    painted: torch.Tensor, truth: torch.Tensor, timesteps_N: torch.Tensor, rng: random.Random
) -> torch.Tensor:
    """What a sampler has made of painted frames on its way: half the clips with some of the truth, more at lower timesteps.

    painted, truth: (clips * F, C, H, W).
    """
    drawn = [rng.choice((0.0, rng.random())) * (1 - int(timestep) / V2V_MAX_TIMESTEP) for timestep in timesteps_N]
    repaired = torch.tensor(drawn).repeat_interleave(len(truth) // len(drawn))
    return torch.lerp(painted, truth, repaired[:, None, None, None])


def _load_or_build_adapter(*candidates: Path) -> MotionAdapter:
    for path in candidates:
        if path.exists():
            return MotionAdapter.from_pretrained(path)
    return build_motion_adapter()


def _motion_modules(unet: Any) -> nn.ModuleDict:
    """The motion modules of a video UNet under names that a ModuleDict takes."""
    return nn.ModuleDict(
        {name.replace(".", "/"): module for name, module in unet.named_modules() if name.endswith("motion_modules")}
    )


def _appearance_modules(unet: Any) -> nn.ModuleList:
    """The resampler and the image K/V layers of a UNet with an attached adapter."""
    processors = [each for each in unet.attn_processors.values() if isinstance(each, nn.Module)]
    return nn.ModuleList([unet.encoder_hid_proj, *(each for each in processors if hasattr(each, "to_k_ip"))])
