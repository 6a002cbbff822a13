"""One set of spatial layers, several users: inflating a UNet with a motion adapter and sharing its layers by reference."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from diffusers import MotionAdapter, UNet2DConditionModel, UNetMotionModel
from diffusers.models.embeddings import SinusoidalPositionalEmbedding


def inflate(unet: UNet2DConditionModel, adapter: MotionAdapter) -> UNetMotionModel:
    """The video UNet over `unet`'s spatial layers (copied) and `adapter`'s temporal ones, pooled-prompt embedding included."""
    motion_unet = UNetMotionModel.from_unet2d(unet, adapter)
    if unet.config.addition_embed_type == "text_time":
        # diffusers' inflation builds this embedding but leaves it untrained.
        motion_unet.add_embedding.load_state_dict(unet.add_embedding.state_dict())
    return motion_unet


def share_spatial_layers(source: Any, user: Any) -> None:
    """Make `user` (a 2D or motion UNet of the same configuration) use `source`'s spatial layers themselves, not copies."""
    for name in ("conv_in", "time_embedding", "add_embedding", "conv_norm_out", "conv_out"):
        if getattr(source, name, None) is not None:
            setattr(user, name, getattr(source, name))
    blocks = [
        *zip(source.down_blocks, user.down_blocks, strict=True),
        *zip(source.up_blocks, user.up_blocks, strict=True),
    ]
    for ours, theirs in [*blocks, (source.mid_block, user.mid_block)]:
        for name in ("resnets", "attentions", "downsamplers", "upsamplers"):
            if getattr(ours, name, None) is not None:
                setattr(theirs, name, getattr(ours, name))


@contextmanager
def temporal_positions(motion_unet: UNetMotionModel, positions: Sequence[int]) -> Iterator[None]:
    """Inside the block, the frames given to the UNet sit at these temporal positions, not at 0, 1, 2, ..."""
    embeddings = [module for module in motion_unet.modules() if isinstance(module, SinusoidalPositionalEmbedding)]
    index = list(positions)
    handles = [
        each.register_forward_hook(lambda module, inputs, output: inputs[0] + module.pe[:, index])
        for each in embeddings
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def motion_state(motion_unet: UNetMotionModel) -> dict:
    """The motion modules' parameters of a video UNet under a `MotionAdapter`'s names."""
    return {name: value for name, value in motion_unet.state_dict().items() if "motion_modules" in name}
