"""IP-Adapter-plus weights: the hub's file layout, written from diffusers' modules and attached to a UNet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from diffusers.models.embeddings import IPAdapterPlusImageProjection

StateDict = dict[str, torch.Tensor]


def to_hub_layout(projection: IPAdapterPlusImageProjection, unet: Any) -> StateDict:
    """The flat state dict of a hub file (`image_proj.*`, `ip_adapter.*`) for a resampler and a UNet's image K/V weights.

    A UNet without an adapter gives the start of one: image K as copies of its text K, V zero, so that it changes nothing.
    """
    flat: StateDict = {}
    own = projection.state_dict()
    for name, value in own.items():
        if ".attn.to_v." not in name:
            merged = torch.cat([value, own[name.replace("to_k", "to_v")]]) if ".attn.to_k." in name else value
            flat[f"image_proj.{_hub_name(name)}"] = merged.detach().clone()
    names = [name for name in unet.attn_processors if _is_image_attention(name)]
    for index, name in enumerate(names):
        processor, attention = unet.attn_processors[name], unet.get_submodule(name.removesuffix(".processor"))
        attached = hasattr(processor, "to_k_ip")
        key = processor.to_k_ip[0].weight if attached else attention.to_k.weight
        value = processor.to_v_ip[0].weight if attached else torch.zeros_like(attention.to_v.weight)
        flat[f"ip_adapter.{2 * index + 1}.to_k_ip.weight"] = key.detach().clone()
        flat[f"ip_adapter.{2 * index + 1}.to_v_ip.weight"] = value.detach().clone()
    return flat


def attach(unet: Any, flat: Mapping[str, torch.Tensor]) -> None:
    """Load a hub file's flat state dict into a UNet: resampler as `encoder_hid_proj`, K/V as attention processors."""
    nested: dict[str, StateDict] = {"image_proj": {}, "ip_adapter": {}}
    for name, value in flat.items():
        part, _, rest = name.partition(".")
        nested[part][rest] = value
    unet._load_ip_adapter_weights([nested], low_cpu_mem_usage=False)


def set_scale(unet: Any, scale: float) -> None:
    """Weight of the image cross-attention beside the text's, in every layer."""
    for name, processor in unet.attn_processors.items():
        if _is_image_attention(name) and hasattr(processor, "scale"):
            processor.scale = [scale] * len(processor.scale)


def _is_image_attention(name: str) -> bool:
    return name.endswith("attn2.processor") and "motion_modules" not in name


def _hub_name(name: str) -> str:
    for ours, theirs in (
        (".ln0.", ".0.norm1."),
        (".ln1.", ".0.norm2."),
        (".attn.to_k.", ".0.to_kv."),
        (".attn.to_q.", ".0.to_q."),
        (".attn.to_out.0.", ".0.to_out."),
        (".ff.0.", ".1.0."),
        (".ff.1.net.0.proj.", ".1.1."),
        (".ff.1.net.2.", ".1.3."),
    ):
        name = name.replace(ours, theirs)
    return name
