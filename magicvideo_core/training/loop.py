"""The training loop that all recipes share: optimiser, learning rate, EMA, resumable checkpoints and the log."""

from __future__ import annotations

import json
import logging
import math
import os
import random
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from magicvideo_core.training.attention import plain_attention_on_cpu
from magicvideo_core.training.curves import write_curves
from magicvideo_core.training.optimizer import MIN_MATRIX_SIDE, Optimizer
from magicvideo_core.training.parallel import Averages, DataParallel
from magicvideo_core.training.peers import PeerAveraging

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TrainingSettings:
    """How long and how fast one module trains.

    The learning rate warms up linearly, stays at `learning_rate`, and falls along a cosine to zero over the last
    `decay_fraction` of `steps`. `threads` is torch's intra-op thread count. A step's batch comes in `parts` of the recipe's
    size, each with random numbers of its own: one process takes them in turn, several share them out, with one result.
    """

    steps: int
    learning_rate: float = 1e-3
    warmup_steps: int = 100
    decay_fraction: float = 0.25
    weight_decay: float = 0.01
    gradient_clip: float = 1.0
    ema_decay: float = 0.998
    seed: int = 0
    threads: int = 2
    log_every: int = 50
    checkpoint_every: int = 500
    bf16: bool = True
    parts: int = 1
    optimizer: str = "adamw"
    muon_min_side: int = MIN_MATRIX_SIDE

    def learning_rate_at(self, step: int) -> float:
        warmup = min(1.0, (step + 1) / max(self.warmup_steps, 1))
        decay_from = self.steps * (1 - self.decay_fraction)
        progress = max(0.0, (step - decay_from) / max(self.steps - decay_from, 1))
        return self.learning_rate * warmup * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


class Recipe(Protocol):
    """One module's recipe: its trainable modules, the loss of a step, and how the result is stored."""

    modules: nn.ModuleDict
    learning_rate_scales: Mapping[str, float]
    """Factors on the learning rate by the first part of a parameter's name; 1 where it is not named."""

    def loss(self, rng: random.Random, generator: torch.Generator) -> tuple[torch.Tensor, dict[str, float]]: ...

    def save(self, directory: Path) -> None: ...


@runtime_checkable
class ChangesOverTime(Protocol):
    """A recipe whose loss depends on how far the training is; it counts its steps from the one that it is told."""

    def start_at(self, step: int) -> None: ...


def trainable_parameters(recipe: Recipe) -> dict[str, nn.Parameter]:
    """The parameters with gradients, by name, in a fixed order."""
    return {name: each for name, each in recipe.modules.named_parameters() if each.requires_grad}


class ExponentialMovingAverage:
    """A float32 running average of the trainable parameters, with a warm-up so that early steps count little."""

    def __init__(self, parameters: dict[str, nn.Parameter], decay: float) -> None:
        self.decay = decay
        self.parameters = parameters
        self.shadow = {name: each.detach().clone() for name, each in parameters.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(
            list(self.shadow.values()), [each.detach() for each in self.parameters.values()], 1 - decay
        )

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """The averaged weights inside the block, the training weights after it."""
        kept = {name: each.detach().clone() for name, each in self.parameters.items()}
        try:
            with torch.no_grad():
                for name, each in self.parameters.items():
                    each.copy_(self.shadow[name])
            yield
        finally:
            with torch.no_grad():
                for name, each in self.parameters.items():
                    each.copy_(kept[name])


def run_training(
    recipe: Recipe,
    settings: TrainingSettings,
    output: Path,
    *,
    peers: PeerAveraging | None = None,
    parallel: DataParallel | None = None,
) -> Path:
    """Train to `settings.steps`, continuing from `output`/checkpoint where there is one; the EMA weights end in `output`.

    Deterministic for a seed and a thread count: the randomness of each step comes from (seed, step) alone, so an
    interrupted training continues as if it had not been. With `parallel`, this process is one of several that share out each
    step's parts and average their gradients; they have `output` in common, and the first of them writes. With `peers`, it is
    one of several that average their weights; each has an `output` and a seed of its own. Returns `output`.
    """
    torch.set_num_threads(settings.threads)
    output.mkdir(parents=True, exist_ok=True)
    parameters = trainable_parameters(recipe)
    optimizer = Optimizer(
        parameters,
        recipe.learning_rate_scales,
        kind=settings.optimizer,
        weight_decay=settings.weight_decay,
        min_side=settings.muon_min_side,
    )
    ema = ExponentialMovingAverage(parameters, settings.ema_decay)
    step = _load_checkpoint(output, parameters, ema, optimizer)
    if isinstance(recipe, ChangesOverTime):
        recipe.start_at(step)
    rank, world = (0, 1) if parallel is None else (parallel.rank, parallel.world)
    started = time.monotonic()
    averages = Averages()
    while step < settings.steps:
        optimizer.zero_grad()
        for part in range(rank, settings.parts, world):
            with plain_attention_on_cpu(), torch.autocast("cpu", torch.bfloat16, enabled=settings.bf16):
                loss, metrics = recipe.loss(*_randomness(settings.seed, step, part))
            (loss / settings.parts).backward()
            averages.add(metrics)
        if parallel is not None:
            parallel.sum_gradients(list(parameters.values()))
        norm = nn.utils.clip_grad_norm_(list(parameters.values()), settings.gradient_clip)
        if torch.isfinite(norm):
            optimizer.step(settings.learning_rate_at(step))
            ema.update(step)
        previous, step = step, step + 1
        if peers is not None:
            averaged = {f"model/{name}": each.data for name, each in parameters.items()}
            averaged |= {f"ema/{name}": each for name, each in ema.shadow.items()}
            step = peers.after_step(step, settings.steps, averaged)
        averages.add({"grad_norm": float(norm)})
        if _reached(settings.log_every, previous, step) or step == settings.steps:
            means = averages.means() if parallel is None else parallel.means(averages)
            averages = Averages()
            if rank == 0:
                _log(output, step, time.monotonic() - started, means)
        if rank == 0 and (_reached(settings.checkpoint_every, previous, step) or step == settings.steps):
            _save_checkpoint(output, step, parameters, ema, optimizer)
            with ema.swapped_in():
                recipe.save(output)
            write_curves(output)
    if parallel is not None:
        parallel.wait_for_all()
    return output


def _randomness(seed: int, step: int, part: int) -> tuple[random.Random, torch.Generator]:
    """Where one part of one step draws from."""
    rng = random.Random(f"{seed}/{step}/{part}" if part else f"{seed}/{step}")
    return rng, torch.Generator().manual_seed(seed * 1_000_003 + step + (part << 40))


def _reached(every: int, previous: int, step: int) -> bool:
    """Whether a multiple of `every` lies in (previous, step]; peers can move the counter on by more than one."""
    return step // every > previous // every


def _log(output: Path, step: int, elapsed_s: float, metrics: dict[str, float]) -> None:
    line = {
        "step": step,
        "elapsed_s": round(elapsed_s, 1),
        **{name: round(value, 5) for name, value in metrics.items()},
    }
    with (output / "log.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")
    logger.info("%s", " ".join(f"{name}={value}" for name, value in line.items()))


def _save_checkpoint(
    output: Path,
    step: int,
    parameters: dict[str, nn.Parameter],
    ema: ExponentialMovingAverage,
    optimizer: Optimizer,
) -> None:
    tensors = {f"model/{name}": each.detach().contiguous() for name, each in parameters.items()}
    tensors |= {f"ema/{name}": each for name, each in ema.shadow.items()}
    tensors |= {f"optimizer/{name}": value for name, value in optimizer.state()}
    target = output / "checkpoint.safetensors"
    temporary = target.with_suffix(".tmp")
    save_file(tensors, temporary, metadata={"step": str(step)})
    os.replace(temporary, target)


def _load_checkpoint(
    output: Path,
    parameters: dict[str, nn.Parameter],
    ema: ExponentialMovingAverage,
    optimizer: Optimizer,
) -> int:
    """Restore everything that `_save_checkpoint` wrote; returns the number of steps done, 0 without a checkpoint."""
    path = output / "checkpoint.safetensors"
    if not path.exists():
        return 0
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        step = int(file.metadata()["step"])
    tensors = load_file(path)
    with torch.no_grad():
        for name, each in parameters.items():
            each.copy_(tensors[f"model/{name}"])
            ema.shadow[name].copy_(tensors[f"ema/{name}"])
    prefix = "optimizer/"
    optimizer.load_state({name.removeprefix(prefix): each for name, each in tensors.items() if name.startswith(prefix)})
    logger.info("continuing from step %d of %s", step, path)
    return step
