"""Keeps the pooled prompt from forgetting what the denoising loss needs late: the way an object moves."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from magicvideo_core.moving_shapes.captions import unknown_words

MOTION_WORDS = ("left", "right", "up", "down", "still", "growing", "shrinking", "spinning")
# Small beside the denoising loss once the words are told apart; large as long as they are not.
MOTION_TOLD_WEIGHT = 0.2


def motion_told_loss(pooled_ND: torch.Tensor, captions: Sequence[str]) -> torch.Tensor:
    """Cross-entropy of each caption's one motion word under a fixed orthonormal projection of its pooled prompt.

    Where an object stands gives its direction away to a video network that sees the first frame, so the denoising loss lets
    "up" and "down" fall together, and then no text-to-image network can place the object where it has room to move.
    Captions with no motion word, or two, do not count, nor do those with words that are none of the world's.
    """
    known = [[] if unknown_words(caption) else caption.split() for caption in captions]
    found = [[word for word in MOTION_WORDS if word in words] for words in known]
    told = [index for index, words in enumerate(found) if len(words) == 1]
    if not told:
        return pooled_ND.new_zeros(())
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(pooled_ND.shape[1], len(MOTION_WORDS), generator=generator))[0]
    labels = torch.tensor([MOTION_WORDS.index(found[index][0]) for index in told])
    return F.cross_entropy(pooled_ND[told].float() @ basis, labels)
