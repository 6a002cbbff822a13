"""Data-parallel training: processes that share out the parts of every step's batch and average their gradients.

Since the parts, and not the processes, decide what is drawn, any number of processes that divides their number trains the
same weights, but for the order in which floating-point numbers are added.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.distributed as dist
from torch import nn


class Averages:
    """Running means of named numbers, which need not come at every step."""

    def __init__(self) -> None:
        self.sums: dict[str, tuple[float, int]] = {}

    def add(self, values: Mapping[str, float]) -> None:
        """Count each value once."""
        for name, value in values.items():
            total, count = self.sums.get(name, (0.0, 0))
            self.sums[name] = total + value, count + 1

    def means(self) -> dict[str, float]:
        """The mean of every name that has come."""
        return {name: total / count for name, (total, count) in self.sums.items()}


class DataParallel:
    """This process among those of torch's default process group, which must be there (gloo on CPUs)."""

    def __init__(self) -> None:
        self.rank, self.world = dist.get_rank(), dist.get_world_size()

    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Replace every gradient by the sum over all processes; one that no process has stays None.

        A parameter without a gradient is left alone by the optimiser, one with a gradient of zero is not.
        """
        sizes = [each.numel() for each in parameters]
        # One message: all gradients, and behind them how many processes have each.
        buffer = torch.zeros(sum(sizes) + len(parameters))
        slices = buffer[: sum(sizes)].split(sizes)
        counts = buffer[sum(sizes) :]
        for index, (each, part) in enumerate(zip(parameters, slices, strict=True)):
            if each.grad is not None:
                part.copy_(each.grad.flatten())
                counts[index] = 1
        dist.all_reduce(buffer)
        for each, part, count in zip(parameters, slices, counts.tolist(), strict=True):
            each.grad = part.view_as(each).clone() if count else None

    def means(self, averages: Averages) -> dict[str, float]:
        """The means over all processes, in a fixed order of names."""
        everyone: list[dict[str, tuple[float, int]]] = [{} for _ in range(self.world)]
        dist.all_gather_object(everyone, averages.sums)
        merged = Averages()
        for sums in everyone:
            for name, (total, count) in sums.items():
                before, counted = merged.sums.get(name, (0.0, 0))
                merged.sums[name] = before + total, counted + count
        return merged.means()

    def wait_for_all(self) -> None:
        """Wait until every process has come here."""
        dist.barrier()
