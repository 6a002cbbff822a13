"""What a training is asked to do, the order of the whole chain, and the Prefect task that trains one module."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from magicvideo_core.errors import ConfigError

# What all modules of a chain have in common; anything else would fit some and not others.
CHAIN_OPTIONS = {"steps", "seed", "threads", "data", "parts"}


@dataclass(frozen=True, slots=True)
class TrainRequest:
    """One module into one folder by `workers` processes; `options` are further arguments of `modules.train`."""

    module: str
    output: Path
    workers: int = 1
    options: Mapping[str, Any] = field(default_factory=dict)


def plan_training(
    module: str, output: str, *, base: str | None, chain: bool, workers: int, options: Mapping[str, Any]
) -> list[TrainRequest]:
    """Return what to train, in order: the module alone, or as a chain with every one after it, each into its own folder.

    In a chain every module continues what the one before it wrote: `output`/vae, t2i, i2v, v2v (the whole family), vfi.
    Raises ConfigError for an option that a module does not take, parts that the workers cannot share, or a base that lacks what
    the first module needs.
    """
    from magicvideo_core.training.modules import DEFAULTS, MODULES, check_base, check_request

    if module not in MODULES:
        raise ConfigError(f"Unknown module {module!r}; choose one of {', '.join(MODULES)}.")
    given = {name: value for name, value in options.items() if value is not None and value != ()}
    if chain and not set(given) <= CHAIN_OPTIONS:
        name = sorted(set(given) - CHAIN_OPTIONS)[0]
        raise ConfigError(f"A chain takes no --{name.replace('_', '-')}: train the module that needs it by itself.")
    requests = []
    for name in MODULES[MODULES.index(module) :] if chain else (module,):
        own, own_workers = dict(given), workers
        if name == "vfi" and chain:
            # The interpolator learns from rendered pairs, in one process.
            own = {key: value for key, value in given.items() if key in ("steps", "seed", "threads")}
            own_workers = 1
        check_request(name, {**own, "workers": own_workers if own_workers > 1 else None})
        if own_workers > 1:
            parts = own.setdefault("parts", max(DEFAULTS[name].settings.parts, own_workers))
            if parts % own_workers:
                raise ConfigError(f"{own_workers} workers cannot share {parts} parts: choose --parts {own_workers}.")
        folder = Path(output) / name if chain else Path(output)
        if (found := _base_of(name, output, base, is_first=name == module)) is not None:
            own["base"] = found
        requests.append(TrainRequest(name, folder, own_workers, own))
    check_base(module, requests[0].options.get("base"))
    return requests


def _base_of(module: str, output: str, base: str | None, *, is_first: bool) -> Path | None:
    if is_first:
        return None if base is None else Path(base)
    return {"t2i": Path(output) / "vae", "i2v": Path(output), "v2v": Path(output) / "i2v"}.get(module)


def train_here_or_on_workers(request: TrainRequest) -> str:
    """Train a module in this process, or on Ray where several workers are asked for; returns its folder."""
    from magicvideo_core.training.modules import prepare_training, train

    if request.workers == 1:
        return str(train(request.module, request.output, **request.options))
    from tasks.train_workers import train_on_workers

    # Here, so that what is wrong is said once and plainly, and media are decoded once.
    prepare_training(request.module, request.output, request.options)
    return str(train_on_workers(request.module, request.output, request.workers, request.options))


@task(name="train_module", task_run_name="train-{module}", cache_policy=NO_CACHE, persist_result=False)
def train_module(module: str, request: TrainRequest) -> str:
    """Bring a module to its last step, from its checkpoint where there is one; returns the folder of its weights."""
    return train_here_or_on_workers(request)
