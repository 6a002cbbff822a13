"""Scaled dot-product attention written out, for training on a CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F

_fused_attention = F.scaled_dot_product_attention


def plain_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    **options: Any,
) -> torch.Tensor:
    """softmax(Q K^T scale) V of (..., heads, tokens, width) tensors; with a mask or dropout, torch's own."""
    if attn_mask is not None or dropout_p or is_causal or any(options.values()):
        return _fused_attention(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, **options)
    scores = (query * (query.shape[-1] ** -0.5 if scale is None else scale)) @ key.transpose(-1, -2)
    return scores.softmax(-1) @ value


@contextmanager
def plain_attention_on_cpu() -> Iterator[None]:
    """Inside the block every scaled dot-product attention of this process is the plain one; nothing changes with a GPU.

    torch's fused kernel is made for long sequences. Of the 8 to 64 tokens here its bf16 backward pass took 5 to 33 ms where
    the plain product takes 3 to 13 ms (one core; 25 to 31 % of a training step before, `tests/bench/attention.py`).
    """
    if torch.cuda.is_available():
        yield
        return
    F.scaled_dot_product_attention = plain_attention  # type: ignore[assignment]
    try:
        yield
    finally:
        F.scaled_dot_product_attention = _fused_attention
