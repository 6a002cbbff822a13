"""Teaches which words belong to which of two objects: cross-attention from an object's place goes to its own words.

The denoising loss finds that out by itself, late: for long, two objects get one colour, or one gets the other's shape.
Shape suffixes: N images, M of them with two objects, Q queries (places), L tokens, H heads.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from magicvideo_core.training.data import Told

BINDING_WEIGHT = 0.2
# Above this timestep nothing shows yet where an object will be.
MAX_TIMESTEP = 985


@contextmanager
def watched_cross_attention(unet: nn.Module, *, watch: bool = True) -> Iterator[list[torch.Tensor]]:
    """Inside the block every cross-attention of the UNet leaves its probabilities, NHQL, in the list, with gradients.

    Without `watch` the list stays empty.
    """
    maps: list[torch.Tensor] = []

    def keep(attention: Any, args: tuple[Any, ...], options: dict[str, Any], _output: Any) -> None:
        tokens = options["encoder_hidden_states"]
        tokens = tokens[0] if isinstance(tokens, tuple) else tokens
        query, key = attention.to_q(args[0]), attention.to_k(tokens)
        query, key = (each.unflatten(-1, (attention.heads, -1)).transpose(1, 2) for each in (query, key))
        maps.append((query @ key.transpose(-1, -2) * attention.scale).float().softmax(-1))

    watched = [
        module for name, module in unet.named_modules() if watch and name.endswith("attn2") and ".attentions." in name
    ]
    hooks = [module.register_forward_hook(keep, with_kwargs=True) for module in watched]
    try:
        yield maps
    finally:
        for hook in hooks:
            hook.remove()


def binding_loss(
    maps: list[torch.Tensor], told: Told, timesteps_N: torch.Tensor, *, max_timestep: int = MAX_TIMESTEP
) -> torch.Tensor:
    """Mean over the objects' places of -log(attention to the own words / attention to both objects' words).

    After TokenCompose (Wang et al., arXiv 2312.03626), which holds each word to its object's mask; here the two objects'
    words are held apart, and how much of the attention goes to neither is left free. A word is one token. Only images below
    `max_timestep` count.
    """
    frames = torch.tensor(told.frames_M)
    early = (timesteps_N[frames] < max_timestep).float()
    spoken_M2L = torch.zeros(len(frames), 2, maps[0].shape[-1])
    for m, words in enumerate(told.words_M):
        for k, part in enumerate(words):
            # The first token begins the text.
            spoken_M2L[m, k, part.start + 1 : part.stop + 1] = 1
    total, places = torch.zeros(()), torch.zeros(())
    for each_NHQL in maps:
        probabilities_MQL = each_NHQL[frames].mean(1)
        to_M2Q = torch.einsum("mql,mkl->mkq", probabilities_MQL, spoken_M2L)
        shares_M2Q = to_M2Q / (to_M2Q.sum(1, keepdim=True) + 1e-6)
        side = round(probabilities_MQL.shape[1] ** 0.5)
        there_M2Q = F.adaptive_avg_pool2d(told.masks_M2HW, side).flatten(2) * early[:, None, None]
        total = total - ((shares_M2Q + 1e-6).log() * there_M2Q).sum()
        places = places + there_M2Q.sum()
    return total / places.clamp(min=1e-6)
