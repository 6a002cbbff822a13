"""The optimisers of a training: AdamW, or Muon for the matrices inside a network beside AdamW for everything else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress

import torch
from torch import nn

OPTIMIZERS = ("adamw", "muon")
ADAM_BETAS = (0.9, 0.99)
# Smaller matrices are not worth orthogonalising, and Adam's step suits what reads or writes single values better.
MIN_MATRIX_SIDE = 48
_OUTSIDE = ("embedding.weight", "conv_in.", "conv_out.", "latents")
_STATE_KEYS = ("step", "exp_avg", "exp_avg_sq", "momentum_buffer")


class Optimizer:
    """Updates named parameters, each at the learning rate times its scale; its state can be stored and continued.

    `muon` gives the hidden layers' weights (a convolution is a matrix of out x in * kernel) the orthogonalised momentum of
    Jordan et al. (2024), scaled so that Adam's learning rate and weight decay fit (Liu et al., 2025, eq. 4).
    """

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        scales: Mapping[str, float],
        *,
        kind: str,
        weight_decay: float,
        min_side: int = MIN_MATRIX_SIDE,
    ) -> None:
        """`scales`: factors on the learning rate by the first part of a parameter's name; 1 where it is not named.

        Matrices with a side below `min_side` are left to AdamW.
        """
        if kind not in OPTIMIZERS:
            raise ValueError(f"optimizer {kind!r}: choose one of {', '.join(OPTIMIZERS)}")
        self.parameters = dict(parameters)
        self._matrices = {
            name: each.detach().view(len(each), -1)
            for name, each in parameters.items()
            if kind == "muon" and is_hidden_matrix(name, each, min_side)
        }
        self._optimizers: list[torch.optim.Optimizer] = []
        for members, muon in (
            ({name: each for name, each in parameters.items() if name not in self._matrices}, False),
            (self._matrices, True),
        ):
            by_scale: dict[float, list[torch.Tensor]] = {}
            for name, each in members.items():
                by_scale.setdefault(scales.get(name.partition(".")[0], 1.0), []).append(each)
            groups = [{"params": tensors, "scale": scale} for scale, tensors in by_scale.items()]
            if groups and muon:
                self._optimizers.append(
                    torch.optim.Muon(groups, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
                )
            elif groups:
                adamw = torch.optim.AdamW(groups, betas=ADAM_BETAS, weight_decay=weight_decay, foreach=True)
                self._optimizers.append(adamw)

    def zero_grad(self) -> None:
        """Forget all gradients: a parameter that gets none in a step is left alone."""
        for each in self.parameters.values():
            each.grad = None

    def step(self, learning_rate: float) -> None:
        """Update the parameters that have gradients."""
        for name, matrix in self._matrices.items():
            grad = self.parameters[name].grad
            matrix.grad = None if grad is None else grad.reshape(matrix.shape)
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * group["scale"]
            optimizer.step()

    def state(self) -> Iterator[tuple[str, torch.Tensor]]:
        """What has been gathered so far, as pairs of key/parameter name and tensor."""
        for name, state in self._states():
            for key in _STATE_KEYS:
                if key in state:
                    yield f"{key}/{name}", state[key].contiguous()

    def load_state(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Go on from what `state` gave; what another kind of optimiser had gathered is left out."""
        for name, state in self._states():
            keys = ("momentum_buffer",) if name in self._matrices else ("step", "exp_avg", "exp_avg_sq")
            for key in keys:
                with suppress(KeyError):
                    state[key] = tensors[f"{key}/{name}"]

    def _states(self) -> Iterator[tuple[str, dict[str, torch.Tensor]]]:
        owners = {
            id(tensor): each for each in self._optimizers for group in each.param_groups for tensor in group["params"]
        }
        for name, parameter in self.parameters.items():
            tensor = self._matrices.get(name, parameter)
            yield name, owners[id(tensor)].state[tensor]


def is_hidden_matrix(name: str, parameter: torch.Tensor, min_side: int = MIN_MATRIX_SIDE) -> bool:
    """Whether a parameter is a matrix (or convolution) between hidden layers, large enough for Muon."""
    if parameter.ndim < 2 or any(part in name for part in _OUTSIDE):
        return False
    return min(len(parameter), parameter[0].numel()) >= min_side
