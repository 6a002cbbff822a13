"""Inflation, shared layers, the adapter's file layout and the shared condition: each equal to what it stands for."""

import pytest
import torch

from magicvideo_core.config.weights import WeightsReference
from magicvideo_core.errors import WeightsError
from magicvideo_core.models import ip_adapter, tiny
from magicvideo_core.models.components import load_model
from magicvideo_core.models.spatial import inflate, motion_state, share_spatial_layers
from magicvideo_core.sampling.controlnet import reference_residuals

FRAMES = 3


@pytest.fixture(scope="module")
def unet():
    torch.manual_seed(0)
    return tiny.build_unet().eval()


@pytest.fixture(scope="module")
def inputs():
    generator = torch.Generator().manual_seed(0)
    return {
        "latents": torch.randn(1, tiny.LATENT_CHANNELS, FRAMES, 8, 8, generator=generator),
        "tokens": torch.randn(1, 5, tiny.TEXT_WIDTH, generator=generator),
        "pooled": torch.randn(1, tiny.TEXT_WIDTH, generator=generator),
        "image": torch.randn(1, 1, 65, tiny.IMAGE_WIDTH, generator=generator),
    }


def _video(unet, inputs, **conditions):
    added = {"text_embeds": inputs["pooled"], "time_ids": torch.full((1, 2), 64.0), **conditions}
    tokens = inputs["tokens"].repeat_interleave(FRAMES, 0)
    return unet(inputs["latents"], torch.tensor(500), tokens, added_cond_kwargs=added).sample


@torch.no_grad()
def test_an_inflated_unet_starts_as_the_image_model(unet, inputs):
    video = _video(inflate(unet, tiny.build_motion_adapter()).eval(), inputs)
    added = {"text_embeds": inputs["pooled"], "time_ids": torch.full((1, 2), 64.0)}
    for frame in range(FRAMES):
        image = unet(
            inputs["latents"][:, :, frame], torch.tensor(500), inputs["tokens"], added_cond_kwargs=added
        ).sample
        assert torch.allclose(video[:, :, frame], image, atol=1e-4)


def test_shared_layers_are_the_same_parameters(unet):
    first = inflate(unet, tiny.build_motion_adapter())
    second = inflate(unet, tiny.build_motion_adapter())
    share_spatial_layers(first, second)
    own = dict(second.named_parameters())
    for name, parameter in first.named_parameters():
        assert (own[name] is parameter) == ("motion_modules" not in name), name
    adapter = tiny.build_motion_adapter()
    adapter.load_state_dict(motion_state(first), strict=True)


@torch.no_grad()
def test_an_adapter_survives_the_hub_layout(unet, inputs):
    torch.manual_seed(1)
    first = inflate(unet, tiny.build_motion_adapter()).eval()
    ip_adapter.attach(first, ip_adapter.to_hub_layout(tiny.build_image_projection(), unet))
    for processor in first.attn_processors.values():
        if hasattr(processor, "to_k_ip"):
            torch.nn.init.normal_(processor.to_v_ip[0].weight)
    stored = ip_adapter.to_hub_layout(first.encoder_hid_proj.image_projection_layers[0], first)
    second = inflate(unet, tiny.build_motion_adapter()).eval()
    ip_adapter.attach(second, stored)
    expected = _video(first, inputs, image_embeds=[inputs["image"]])
    assert torch.equal(_video(second, inputs, image_embeds=[inputs["image"]]), expected)
    ip_adapter.set_scale(second, 0.0)
    assert not torch.allclose(_video(second, inputs, image_embeds=[inputs["image"]]), expected, atol=1e-3)


@torch.no_grad()
def test_the_shared_condition_equals_the_stock_controlnet_on_repeated_images(unet, inputs):
    torch.manual_seed(2)
    controlnet = tiny.build_controlnet(unet).eval()
    for block in controlnet.controlnet_down_blocks:
        torch.nn.init.normal_(block.weight)
    reference = torch.rand(1, 3, 64, 64)
    down, mid = reference_residuals(controlnet, inputs["latents"], torch.tensor(300), inputs["tokens"], reference, 0.5)
    folded = inputs["latents"].transpose(1, 2).flatten(0, 1)
    stock_down, stock_mid = controlnet(
        folded,
        torch.tensor(300),
        inputs["tokens"].repeat_interleave(FRAMES, 0),
        reference.repeat_interleave(FRAMES, 0),
        conditioning_scale=0.5,
        return_dict=False,
    )
    assert all(torch.allclose(ours, theirs, atol=1e-4) for ours, theirs in zip(down, stock_down, strict=True))
    assert torch.allclose(mid, stock_mid, atol=1e-4)


def test_weights_that_do_not_fit_are_refused_by_name(unet, tmp_path):
    from diffusers import UNet2DConditionModel
    from safetensors.torch import load_file, save_file

    unet.save_pretrained(tmp_path / "unet")
    path = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    tensors["conv_in.extra"] = tensors.pop("conv_in.weight")
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(WeightsError, match=r"missing keys: conv_in\.weight; unexpected keys: conv_in\.extra"):
        load_model(UNet2DConditionModel, WeightsReference(path=tmp_path), "unet", torch.float32)
    with pytest.raises(WeightsError, match="cannot be loaded from"):
        load_model(UNet2DConditionModel, WeightsReference(path=tmp_path / "none"), "unet", torch.float32)
