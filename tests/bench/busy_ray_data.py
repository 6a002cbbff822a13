"""Ray Data on the load of `busy.py`: the same fake stages on the same logical GPUs, as busy as Ray Data keeps them.

Each stage is one `map_batches` with a pool of actors. `whole`: an actor has a GPU to itself, and Ray Data scales each
pool between one and all of them. `shared`: every stage has an actor for each GPU, of a quarter each, and a file per GPU
lets one of its actors compute at a time, as the hardware would.
"""

import fcntl
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from throughput_load import Load, Worker, figures, read_records

from magicvideo_core.ids import STAGES
from magicvideo_core.stages.base import Outcome, Stage, StageItem

SHARE = 0.25


class _OneAtATime:
    """A stage that computes while no other one on its GPU does."""

    def __init__(self, stage: Stage, gpu_file: Path) -> None:
        self._stage, self._gpu = stage, gpu_file.open("w")

    def process(self, batch: Sequence[StageItem]) -> list[Outcome]:
        fcntl.flock(self._gpu, fcntl.LOCK_EX)
        try:
            return self._stage.process(batch)
        finally:
            fcntl.flock(self._gpu, fcntl.LOCK_UN)


class _Actor:
    """A `Worker` as Ray Data calls it, one clip at a time."""

    def __init__(self, stage: str, load: Load, *, is_shared: bool) -> None:
        import ray

        self._worker = Worker(stage, load)
        if is_shared:
            [gpu] = ray.get_gpu_ids()
            self._worker.model = _OneAtATime(self._worker.model, Path(load.folder, f"gpu-{gpu}"))

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"prompt": np.array([self._worker.run(str(prompt)) for prompt in batch["prompt"]])}


def busy(load: Load, *, is_shared: bool) -> float:
    """Run the load on the Ray that this process is connected to.

    Returns the share of the ideal, from the begin of the first clip to the end of the last: loading is not counted.
    """
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    # The pipeline's figure begins when every actor has loaded.
    context.wait_for_min_actors_s = 600
    rows: list[Any] = [{"prompt": prompt} for prompt in load.prompts]
    # One row is what may run elsewhere: a block of several would hold the others back.
    data = ray.data.from_items(rows, override_num_blocks=len(rows))
    fewest = load.num_gpus if is_shared else 1
    pool = ray.data.ActorPoolStrategy(min_size=fewest, max_size=load.num_gpus)
    for stage in STAGES:
        data = data.map_batches(
            _Actor,
            batch_size=1,
            compute=pool,
            fn_constructor_args=(stage, load),
            fn_constructor_kwargs={"is_shared": is_shared},
            zero_copy_batch=False,
            num_cpus=0.1,
            num_gpus=SHARE if is_shared else 1,
        )
    data.write_parquet(str(Path(load.folder, "rows")))
    return figures(load, read_records(Path(load.folder)))["busy"]
