"""Loading of tensors into a model by name: every name and shape must fit, and all that do not are listed."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from magicvideo_core.errors import WeightsError


def load_strictly(model: nn.Module, state: Mapping[str, torch.Tensor], found_at: str, asked_by: str) -> None:
    """Copy the tensors into the model. Raises WeightsError, which says where they were found and what they must fit."""
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in state.items()}
    problems = [f"missing {name}" for name in sorted(expected.keys() - found.keys())]
    problems += [f"unexpected {name}" for name in sorted(found.keys() - expected.keys())]
    problems += [
        f"{name} is {found[name]}, should be {expected[name]}"
        for name in sorted(expected.keys() & found.keys())
        if found[name] != expected[name]
    ]
    if problems:
        raise WeightsError(f"{found_at} does not fit {asked_by}: {'; '.join(problems)}")
    model.load_state_dict(dict(state))
