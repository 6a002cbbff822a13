"""Trains one module in several processes: Ray Train places them, gloo averages their gradients, the first one writes."""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from magicvideo_core.errors import ConfigError
from tasks.ray_cluster import connect_to_ray

logger = logging.getLogger("magicvideo_core.training.loop")

# A worker that dies takes the group with it; the training goes on from its last checkpoint.
MAX_FAILURES = 2
# Importing torch and diffusers on a busy machine takes more than Ray Train's own minute.
_START_TIMEOUT_S = "600"
_TAIL_INTERVAL_S = 1.0


def train_on_workers(module: str, output: Path, workers: int, options: Mapping[str, Any]) -> Path:
    """Train as `magicvideo_core.training.modules.train` does, in `workers` processes with one CPU each.

    `output` must be one folder for all of them: on a cluster, a shared file system. Returns `output`. Raises ConfigError
    where Ray Train is not installed whole, or the cluster has too few CPUs, and Ray's error where training fails for good.
    """
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", _START_TIMEOUT_S)
    try:
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig, TorchTrainer
    except ImportError as error:
        raise ConfigError(
            f"Training with --workers needs Ray Train ({error}): pip install 'magicvideo[train]'."
        ) from None
    import ray

    folder = output.absolute()
    scratch = folder / "ray"
    owns_ray = connect_to_ray(num_cpus=max(os.cpu_count() or 1, workers))
    try:
        _check_room(workers, ray.cluster_resources())
        trainer = TorchTrainer(
            _train_here,
            train_loop_config={"module": module, "output": str(folder), "options": dict(options)},
            torch_config=TorchConfig(backend="gloo"),
            scaling_config=ScalingConfig(num_workers=workers, resources_per_worker={"CPU": 1}),
            run_config=RunConfig(
                name="train", storage_path=str(scratch), failure_config=FailureConfig(max_failures=MAX_FAILURES)
            ),
        )
        with _shown_log(folder / "log.jsonl"):
            trainer.fit()
    finally:
        # What Ray Train notes about its own run; checkpoints are ours.
        shutil.rmtree(scratch, ignore_errors=True)
        if owns_ray:
            ray.shutdown()
    return output


def _train_here(config: dict[str, Any]) -> None:
    """One worker's part, in its process and torch process group."""
    from magicvideo_core.training.modules import train
    from magicvideo_core.training.parallel import DataParallel

    train(config["module"], Path(config["output"]), parallel=DataParallel(), **config["options"])


def _check_room(workers: int, cluster: Mapping[str, float]) -> None:
    free = math.floor(cluster.get("CPU", 0.0))
    if free < workers:
        raise ConfigError(f"--workers {workers} needs {workers} CPUs, and the Ray cluster has {free}: ask for fewer.")


@contextmanager
def _shown_log(path: Path) -> Iterator[None]:
    """Log what the first worker appends to its log, as it comes."""
    done = threading.Event()

    def follow() -> None:
        position = path.stat().st_size if path.exists() else 0
        ended = False
        while not ended:
            ended = done.wait(_TAIL_INTERVAL_S)
            if path.exists():
                with path.open() as file:
                    file.seek(position)
                    # Lines are appended whole.
                    for line in file.read().splitlines():
                        logger.info("%s", " ".join(f"{name}={value}" for name, value in json.loads(line).items()))
                    position = file.tell()

    thread = threading.Thread(target=follow, name="training log", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
