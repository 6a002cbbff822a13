"""Local SGD between processes of one machine: each trains on its own, and every so often their weights are averaged.

Unlike gradient averaging it needs no step in common, so peers may be of different speed (a core that others use too).
Each round is weighted by the steps that a peer did in it (McMahan et al., 2017). Not bit-reproducible: rounds follow the
clock. A single process (`world` = 1) never comes here and is.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file


@dataclass
class PeerAveraging:
    """One peer's side. Files go through `folder` (best on a memory file system); `rank` is in 0..`world` - 1.

    A peer that waits longer than `timeout_s` for another raises TimeoutError.
    """

    folder: Path
    rank: int
    world: int
    interval_s: float = 45.0
    timeout_s: float = 600.0
    _round: int = 0
    _steps_in_round: int = 0
    _next: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._next = time.monotonic() + self.interval_s

    def after_step(self, step: int, last_step: int, tensors: dict[str, torch.Tensor]) -> int:
        """Average `tensors` in place when the round is over; returns the step counter, the highest of all peers.

        A peer at `last_step` ends its round at once, and takes the others with it at the end of theirs.
        """
        self._steps_in_round += 1
        if time.monotonic() < self._next and step < last_step and not self._others_wait():
            return step
        self._write(step, tensors)
        counts = {rank: self._read_counts(rank) for rank in range(self.world)}
        total = sum(done for done, _ in counts.values())
        mean = {name: torch.zeros_like(value) for name, value in tensors.items()}
        for rank, (done, _) in counts.items():
            with safe_open(self._path(rank, self._round), "pt") as file:
                for name, value in mean.items():
                    value.add_(file.get_tensor(name), alpha=done / total)
        with torch.no_grad():
            for name, value in tensors.items():
                value.copy_(mean[name])
        self._path(self.rank, self._round - 1).unlink(missing_ok=True)
        self._round += 1
        self._steps_in_round = 0
        self._next = time.monotonic() + self.interval_s
        return max(reached for _, reached in counts.values())

    def _others_wait(self) -> bool:
        """Whether a peer has already ended this round: waiting wastes its core."""
        return any(self._path(rank, self._round).exists() for rank in range(self.world) if rank != self.rank)

    def _path(self, rank: int, number: int) -> Path:
        return self.folder / f"peer-{rank}.round-{number}.safetensors"

    def _write(self, step: int, tensors: dict[str, torch.Tensor]) -> None:
        target = self._path(self.rank, self._round)
        temporary = target.with_suffix(".tmp")
        metadata = {"done": str(self._steps_in_round), "step": str(step)}
        save_file({name: value.detach().contiguous() for name, value in tensors.items()}, temporary, metadata=metadata)
        os.replace(temporary, target)

    def _read_counts(self, rank: int) -> tuple[int, int]:
        path, deadline = self._path(rank, self._round), time.monotonic() + self.timeout_s
        while not path.exists():
            if time.monotonic() > deadline:
                raise TimeoutError(f"peer {rank} wrote no weights for round {self._round} in {self.timeout_s:.0f} s")
            time.sleep(0.1)
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
        return int(metadata["done"]), int(metadata["step"])
