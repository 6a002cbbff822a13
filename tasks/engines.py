"""The engines of this process, one per run that it drives: started once, found by run URI, closed at the end.

Prefect tasks get plain values; they find the engine of their run here, in the process that drives it.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from magicvideo_core.errors import RunError, RunStoppedError
from tasks.autoscaling import requested_room
from tasks.environment import set_environment
from tasks.ray_cluster import restore_sigterm
from tasks.resolve import ResolvedRun, RunRequest, resolve_run
from tasks.runtime import Engine
from tasks.selection import RetryRequest, resolve_retry
from tasks.stop_conditions import StopConditions

_engines: dict[str, Engine] = {}


def start_engine(run: ResolvedRun, stop_conditions: StopConditions) -> Engine:
    """Start the engine of a run, to be found by `engine_of`; does not wait."""
    if run.uri in _engines:
        raise RunError(f"Run {run.run_id} at {run.uri} is already being worked on in this process.")
    engine = _engines[run.uri] = Engine(run, stop_conditions)
    return engine


def engine_of(run_uri: str) -> Engine:
    """Return the engine of a run that this process works on."""
    return _engines[run_uri]


@contextmanager
def open_engine(request: RunRequest | RetryRequest) -> Iterator[Engine]:
    """Give the engine of the requested run, placed on the cluster; one that was started ahead of its flow is used.

    It holds the run's session, and is closed at the end: what is in flight is finished first where a stop condition
    ends it, and stopped where an error does. Raises an InputError where the request or the cluster does not fit or
    another driver works on the run, before anything is written.
    """
    set_environment()
    engine = _engines.get(request.run_uri()) or start_engine(
        resolve_run(request) if isinstance(request, RunRequest) else resolve_retry(request), request.stop_conditions()
    )
    try:
        engine.wait_until_placed()
        restore_sigterm()
        engine.take_run()
        with requested_room(engine.run.config, engine.run.num_clips_to_work_on):
            yield engine
    except BaseException as error:
        engine.wait_until_drained()
        engine.stop(RunStoppedError(f"Run {engine.run.run_id} stopped after {type(error).__name__}: {error}"))
        raise
    finally:
        close_engine(engine)


def close_engine(engine: Engine) -> None:
    """Close an engine and forget it; once is enough, twice is fine."""
    if _engines.pop(engine.run.uri, None) is not None:
        engine.close()
