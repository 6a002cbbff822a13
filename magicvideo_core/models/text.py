"""Prompt embeddings: tokens for cross-attention and, where the UNet asks for it, the pooled prompt and the size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase


def embed_prompts(
    prompts: Sequence[str], tokenizer: PreTrainedTokenizerBase, text_encoder: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """Token embeddings NLD and pooled embeddings ND, padded to the tokenizer's length as stock pipelines do."""
    tokens = tokenizer(list(prompts), padding="max_length", truncation=True, return_tensors="pt")
    output = text_encoder(tokens.input_ids.to(text_encoder.device))
    return output.last_hidden_state, output.pooler_output


def added_conditions(unet: Any, pooled_ND: torch.Tensor, height: int, width: int) -> dict[str, torch.Tensor]:
    """What a UNet takes beside the tokens: pooled prompt and size in pixels if it was built so, nothing otherwise."""
    if unet.config.addition_embed_type != "text_time":
        return {}
    size = torch.tensor([[float(height), float(width)]], device=pooled_ND.device)
    return {"text_embeds": pooled_ND, "time_ids": size.expand(len(pooled_ND), 2)}
