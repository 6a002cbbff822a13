"""What a run computes on: the Ray cluster, one pool per stage, and the live counts."""

import logging
import math
import os
import threading
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from typing import Any

from magicvideo_core.errors import RunError, RunStoppedError
from magicvideo_core.logs import RunLog, event, log_fields
from magicvideo_core.manifest.inventory import Inventory
from magicvideo_core.manifest.journal import write_record
from magicvideo_core.manifest.layout import run_json_key
from magicvideo_core.manifest.schema import ManifestRow, Status
from magicvideo_core.manifest.session import Session, open_session
from tasks.forecast import Machines, forecast
from tasks.handover import Handover
from tasks.load_order import LoadOrder
from tasks.metrics import LoadMeter, MeteredBoard, RunMetrics
from tasks.pools.clip_work import ClipWork, Effort, Reason, StageJob, unfinished_row
from tasks.pools.pool import PoolHooks, StagePool
from tasks.pools.remote import PoolActor
from tasks.pools.scaler import Scaler
from tasks.pools.shared_gpus import SharedGpus
from tasks.pools.sizing import needed_resources, size_pools
from tasks.pools.spares import Spares
from tasks.pools.turns import Turns
from tasks.pools.warm import WarmActors
from tasks.progress import found_done
from tasks.ray_cluster import connect_to_ray
from tasks.resolve import ResolvedRun, find_record
from tasks.reuse import ReuseSource
from tasks.stop_conditions import StopConditions

logger = logging.getLogger(__name__)

_CLOSE_PATIENCE_S = 60.0
_LONGEST_NAP_S = 60.0
_SCALING_INTERVAL_S = 1.0
_CORES_PER_LOADING_ACTOR = 2
# The pool has a patience of its own for storage that does not answer.
_PROBE_PATIENCE_S = 5.0


class Engine:
    """Pools and progress of one run. Starts Ray and the actors in the background as soon as it is made."""

    def __init__(self, run: ResolvedRun, stop_conditions: StopConditions) -> None:
        self.run = run
        self._log = RunLog(run.run_id)
        event("engine started", run=run.run_id)
        self._max_gpu_hours = stop_conditions.max_gpu_hours
        self._keep_warm_s = stop_conditions.keep_warm_s
        self._warm = WarmActors(run.run_id, stop_conditions.keep_warm_s)
        self.inventory = Inventory(run.storage)
        self.reuse = ReuseSource(run.reuse, run.record.recipe_hashes) if run.reuse is not None else None
        self.board = MeteredBoard(run.config.stages, run.num_clips_to_work_on)
        self.handover = Handover(run.config.stages)
        self._jobs = {
            stage: StageJob(stage, run.config, run.storage, run.run_id, run.record.recipe_hashes[stage])
            for stage in run.config.stages
        }
        self._stop_reason: BaseException | None = None
        self._drain_reason: RunStoppedError | None = None
        self._lock = threading.Lock()
        self._pools: Future[dict[str, StagePool]] = Future()
        self._made: list[StagePool] = []
        self._by_stage: dict[str, StagePool] = {}
        self._turns = Turns()
        self._pool_configs = {stage: run.config.stage(stage).pool for stage in run.config.stages}
        self._gpus = SharedGpus(self._pool_configs, self._warm.places.reserve, self._warm.places.give_back)
        self._session: Session | None = None
        self._resources: Mapping[str, float] = {}
        self._owns_ray = False
        self._load_order: LoadOrder | None = None
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._live, name="engine", daemon=True)
        self._thread.start()
        if stop_conditions.deadline is not None:
            threading.Thread(target=self._watch, args=(stop_conditions.deadline,), name="deadline", daemon=True).start()

    def job(self, stage: str) -> StageJob:
        """Return what the actors of a stage know."""
        return self._jobs[stage]

    def pool(self, stage: str) -> StagePool:
        """Return the pool of a stage, waiting for Ray. Raises ConfigError where the cluster is too small for it."""
        return self._pools.result()[stage]

    def wait_until_placed(self) -> None:
        """Wait until Ray runs and every pool has its size; raises what kept it from that, or what stopped the run."""
        self._pools.result()
        with self._lock:
            if self._stop_reason is not None:
                raise self._stop_reason

    def forecast(self) -> dict[str, Any] | None:
        """Return what the run is expected to take on this cluster, None where nothing is known of its costs."""
        self._pools.result()
        if self.run.costs is None:
            return None
        num_clips = dict.fromkeys(self.run.config.stages, self.run.num_clips_to_work_on)
        # Of Ray's own resources (nodes, memory) no pool takes anything.
        shown = {name: amount for name, amount in self._resources.items() if ":" not in name and "memory" not in name}
        return forecast(self.run.config, num_clips, self.run.costs, Machines(shown, self.run.price_per_gpu_hour))

    def take_run(self) -> None:
        """Open this process's session on the run; from here on, objects are written.

        Raises RunError where another driver works on the run, or began it since the request was resolved.
        """
        storage = self.run.storage
        session = open_session(storage, on_lost=self.stop)
        with self._lock:
            self._session = session
        if self._closing.is_set():
            session.close()
            raise RunStoppedError(f"Run {self.run.run_id} was stopped while it started.")
        if self.run.is_new and find_record(storage) is not None:
            raise RunError(f"Run {self.run.run_id} at {self.run.uri} was begun meanwhile: give the same command again.")
        self._log.open(storage, f"driver-{session.number:05d}")
        event("run taken", run=self.run.run_id, session=session.number)
        session.note_found_done(found_done(storage))

    def stop(self, reason: BaseException) -> None:
        """Give up all work now; whoever waits for a pool gets `reason`."""
        with self._lock:
            self._stop_reason = reason
            pools = list(self._made)
        self.handover.stop(reason)
        for pool in pools:
            pool.stop(reason)

    def drain(self, reason: RunStoppedError) -> None:
        """Start no more work: what is in flight is finished and recorded, then whoever waits for more gets `reason`."""
        with self._lock:
            first = self._drain_reason is None
            self._drain_reason = self._drain_reason or reason
            pools = list(self._made)
        if first:
            logger.warning("%s No more work is started; what is in flight is being finished.", reason)
        for pool in pools:
            pool.drain(reason)
        self.handover.stop(reason)

    def wait_until_drained(self) -> None:
        """Wait until nothing is in flight, where the engine was drained; at once where it was not."""
        with self._lock:
            pools = list(self._made) if self._drain_reason is not None else []
        for pool in pools:
            pool.wait_until_idle()

    def close(self) -> None:
        """End the pools, and Ray where this engine started it; waits until both are gone, but not for ever.

        Gives the run back at the very end, when nothing can write to it any more.
        """
        self._closing.set()
        self._thread.join(_CLOSE_PATIENCE_S)
        with self._lock:
            session = self._session
        if session is not None:
            session.close()
        event("run given back", run=self.run.run_id)
        self._log.close()

    def _live(self) -> None:
        with log_fields(run=self.run.run_id):
            self._live_logged()

    def _live_logged(self) -> None:
        # One thread from start to end: the kernel ends the processes of a local Ray with the thread that started them.
        try:
            self._owns_ray = connect_to_ray(self._local_cpus(), outlives_process=self._keep_warm_s > 0)
            event("ray connected", is_own=self._owns_ray)
            self.board.metrics = RunMetrics(self.run.run_id)
            pools = self._place_pools()
            meter = LoadMeter(self.board, {stage: pool.load for stage, pool in pools.items()}, self.board.metrics)
            self._pools.set_result(pools)
            scaler, spares = Scaler(self._pool_configs, pools), Spares(pools)
            while not self._closing.wait(_SCALING_INTERVAL_S):
                self._scale(scaler)
                spares.look()
            with ThreadPoolExecutor(max_workers=len(pools)) as executor:
                list(executor.map(StagePool.close, pools.values()))
            self._gpus.give_back()
            self._warm.close(in_peace=self._stop_reason is None)
            meter.close()
        # A boundary: whoever asks for a pool gets the error.
        except BaseException as error:
            self._pools.set_exception(error)
        finally:
            if self._owns_ray:
                import ray

                ray.shutdown()

    def _place_pools(self) -> dict[str, StagePool]:
        import ray

        config = self.run.config
        costs, num_clips, self._resources = self.run.costs, self.run.num_clips_to_work_on, ray.cluster_resources()
        seconds = None if costs is None else {stage: costs.stages[stage].seconds for stage in config.stages}
        sizes = size_pools(self._pool_configs, self._resources, num_clips, seconds)
        event("pools placed", actors=sizes)
        self._warm.look_around(self._jobs, sizes, self._gpus.bundle)
        if self._owns_ray and (os.cpu_count() or 1) < _CORES_PER_LOADING_ACTOR * sum(sizes.values()):
            self._load_order = LoadOrder(config.stages, self._is_ending)
        with self._lock:
            if self._stop_reason is not None:
                raise self._stop_reason
            pools = {stage: self._make_pool(stage, size) for stage, size in sizes.items()}
            self._made, self._by_stage = list(pools.values()), pools
            if self._drain_reason is not None:
                for pool in self._made:
                    pool.drain(self._drain_reason)
            return pools

    def _scale(self, scaler: Scaler) -> None:
        import ray

        try:
            scaler.look(ray.cluster_resources())
        # A boundary: a cluster that does not answer is for the pools to find out.
        except Exception:
            logger.warning("the pools keep their sizes", exc_info=True)

    def _is_ending(self) -> bool:
        return self._closing.is_set() or self._stop_reason is not None

    def _watch(self, deadline: datetime) -> None:
        while not self._closing.wait(max(0.0, min((deadline - datetime.now(UTC)).total_seconds(), _LONGEST_NAP_S))):
            # The clock may be set in the meantime.
            if datetime.now(UTC) >= deadline:
                at = f"{deadline.astimezone():%Y-%m-%d %H:%M:%S %Z}"
                self.drain(RunStoppedError(f"Run {self.run.run_id} has reached its deadline, {at}."))
                return

    def _check_budget(self) -> None:
        if self._max_gpu_hours is None:
            return
        with self._lock:
            pools = list(self._made)
        spent = sum(pool.gpu_s() for pool in pools) / 3600
        if spent >= self._max_gpu_hours:
            budget = f"its budget of {self._max_gpu_hours:g} GPU-hours with {spent:.3g}"
            self.drain(RunStoppedError(f"Run {self.run.run_id} has reached {budget}."))

    def _local_cpus(self) -> int:
        """Return the cores of this machine, or what the pools ask for at least: on one machine CPUs only count."""
        floors = {stage: pool.min_actors for stage, pool in self._pool_configs.items()}
        least = needed_resources(self._pool_configs, floors).get("CPU", 0.0)
        return max(os.cpu_count() or 1, math.ceil(least))

    def _make_pool(self, stage: str, num_actors: int) -> StagePool:
        job, config = self._jobs[stage], self.run.config.stage(stage).pool
        probe_storage = partial(job.storage.with_patience(_PROBE_PATIENCE_S).exists, run_json_key())

        def start_actor(number: int) -> PoolActor:
            if self._load_order is not None:
                self._load_order.wait_for_turn(stage)
            return self._warm.start(job, config, self._gpus.where(stage, number))

        def on_loaded() -> None:
            if self._load_order is not None:
                self._load_order.loaded(stage)

        hooks = PoolHooks(
            start_actor=start_actor,
            give_up=partial(_give_up, job),
            probe_storage=probe_storage,
            before_batch=self._check_budget,
            may_run_ahead=partial(self._may_run_ahead, stage),
            on_loaded=on_loaded,
        )
        rank = self.run.config.stages.index(stage)
        with log_fields(stage=stage):
            return StagePool(stage, config, num_actors, hooks, self.board, self._turns, rank)

    def _may_run_ahead(self, stage: str) -> bool:
        """Tell whether the stage after this one has room for more clips that wait."""
        stages = self.run.config.stages
        following = stages[stages.index(stage) + 1 :][:1]
        return all(
            name not in self._by_stage
            or self._by_stage[name].num_waiting() < self.run.config.stage(name).pool.max_waiting_clips
            for name in following
        )


def _give_up(
    job: StageJob, work: ClipWork, status: Status, reason: Reason, effort: Effort | None = None
) -> ManifestRow:
    row = unfinished_row(job, work, status, reason, effort)
    write_record(job.storage, row)
    return row
