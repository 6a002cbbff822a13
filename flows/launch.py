"""Driving the flows from a terminal: Prefect and Ray start beside each other, signals stop the run cleanly."""

import contextvars
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from contextlib import ExitStack
from dataclasses import asdict, astuple
from pathlib import Path
from typing import TYPE_CHECKING, Any

from magicvideo_core.errors import ConfigError, RunStoppedError
from magicvideo_core.logs import event
from magicvideo_core.manifest.session import wait_until_free
from tasks.environment import set_environment
from tasks.progress import ProgressBoard
from tasks.ray_cluster import check_ray_outlives_process, import_ray
from tasks.resolve import ResolvedRun, RunRequest
from tasks.selection import RetryRequest
from tasks.stop_conditions import StopConditions

if TYPE_CHECKING:
    from tasks.prefect_server import EphemeralServer

# How often progress is shown, and how long a stopped run may take to report to Prefect and give its devices back.
_REFRESH_S = 0.2
_STOP_PATIENCE_S = 30.0
_DRAIN_PATIENCE_S = 3.0
# Up to two of them come without a pause.
_EVENT_RECONNECTIONS = 2


ShowProgress = Callable[[ProgressBoard], None]


def run_generate(run: ResolvedRun, request: RunRequest, show_progress: ShowProgress) -> dict[str, Any]:
    """Run the generate flow for a resolved run, as `run_flow` does; returns its summary."""

    def call() -> dict[str, Any]:
        from flows.generate import generate

        return generate(**asdict(request))

    return run_flow(run, request.stop_conditions(), call, show_progress)


def run_retry(run: ResolvedRun, request: RetryRequest, show_progress: ShowProgress) -> dict[str, Any]:
    """Run the retry flow for a run with a selection, as `run_flow` does; returns its summary."""

    def call() -> dict[str, Any]:
        from flows.retry import retry

        return retry(*astuple(request))

    return run_flow(run, request.stop_conditions(), call, show_progress)


def run_train(arguments: dict[str, Any]) -> dict[str, Any]:
    """Run the train flow with these arguments; returns its result. Signals raise KeyboardInterrupt in this thread.

    What the training had written by then stays, and the same arguments go on from its last checkpoint.
    """
    set_environment()
    before = signal.signal(signal.SIGTERM, _interrupt)
    result: Future[dict[str, Any]] = Future()

    def call() -> dict[str, Any]:
        from flows.train import train

        return train(**arguments)

    try:
        with ExitStack() as stack:
            _start_flow(result, call, _start_prefect(stack))
            _follow(result, lambda: None)
            return result.result()
    finally:
        signal.signal(signal.SIGTERM, before)


def run_flow(
    run: ResolvedRun, stop_conditions: StopConditions, call: Callable[[], dict[str, Any]], show_progress: ShowProgress
) -> dict[str, Any]:
    """Call a flow beside the engine that it works on; returns its summary.

    `show_progress` is called several times a second in this thread, which must be the main one. SIGINT and SIGTERM
    raise KeyboardInterrupt after the work has stopped: everything durable stays, and the run can be continued.
    """
    # 0. Where another driver works on the run, or actors are to be kept where they cannot be, that is said first.
    wait_until_free(run.storage)
    if stop_conditions.keep_warm_s:
        check_ray_outlives_process()
    set_environment()
    before = signal.signal(signal.SIGTERM, _interrupt)
    flow: Future[dict[str, Any]] = Future()
    try:
        with ExitStack() as stack:
            # 1. Prefect's server takes longest: it starts first, in a process of its own.
            early_server = _spawn_server(stack) if _is_without_server() else None
            # 2. Then Ray, and as soon as it runs the actors; in the background.
            from tasks.engines import close_engine, start_engine

            import_ray()
            engine = start_engine(run, stop_conditions)
            stack.callback(close_engine, engine)
            try:
                # 3. The flow, once Prefect's server answers.
                _start_flow(flow, call, _start_prefect(stack, early_server))
                _follow(flow, lambda: show_progress(engine.board))
                show_progress(engine.board)
                return flow.result()
            except KeyboardInterrupt:
                engine.stop(RunStoppedError(f"Run {run.run_id} was interrupted."))
                wait_for([flow], timeout=_STOP_PATIENCE_S)
                raise
            except BaseException as error:
                engine.stop(RunStoppedError(f"Run {run.run_id} stopped after {type(error).__name__}: {error}"))
                raise
    finally:
        signal.signal(signal.SIGTERM, before)


def _follow(flow: Future[dict[str, Any]], show: Callable[[], None]) -> None:
    """Call `show` several times a second until the flow has ended; SIGTERM raises KeyboardInterrupt meanwhile."""
    while not flow.done():
        # Again each time: Ray puts a handler of its own in place when it starts, which aborts the process.
        signal.signal(signal.SIGTERM, _interrupt)
        show()
        wait_for([flow], timeout=_REFRESH_S)


def _is_without_server() -> bool:
    """Tell, without importing Prefect, that no server can have been set: neither in the environment nor in a profile."""
    home = Path(os.environ.get("PREFECT_HOME", "~/.prefect")).expanduser()
    settings = {
        home / "profiles.toml": "PREFECT_API_URL",
        Path(".env"): "PREFECT_API_URL",
        Path("pyproject.toml"): "[tool.prefect",
        Path("prefect.toml"): "",
    }
    in_files = any(path.is_file() and word in path.read_text(errors="replace") for path, word in settings.items())
    return not in_files and not {"PREFECT_API_URL", "PREFECT_PROFILES_PATH"} & os.environ.keys()


def _spawn_server(stack: ExitStack) -> "EphemeralServer":
    from tasks.prefect_server import EphemeralServer

    return stack.enter_context(EphemeralServer())


def _start_prefect(stack: ExitStack, server: "EphemeralServer | None" = None) -> "EphemeralServer | None":
    """Have this process use an ephemeral server, to end with `stack`; None where a server is set, which must answer."""
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL, temporary_settings

    if server is None and (api_url := PREFECT_API_URL.value()):
        with get_client(sync_client=True) as client:
            problem = client.api_healthcheck()
        if problem is not None:
            raise ConfigError(f"Prefect at PREFECT_API_URL={api_url} does not answer: start it, or unset it.")
        return None
    server = server or _spawn_server(stack)
    stack.enter_context(temporary_settings({PREFECT_API_URL: server.api_url}))
    _send_events_to(server.api_url)
    stack.callback(_drain_events)
    return server


def _start_flow(
    result: "Future[dict[str, Any]]", call: Callable[[], dict[str, Any]], server: "EphemeralServer | None"
) -> None:
    """Start the flow in a thread of its own, so that signals reach the main thread and not Prefect's machinery."""

    def run_flow() -> None:
        try:
            if server is not None:
                server.wait_until_healthy()
                event("prefect answers")
            result.set_result(call())
        # A boundary: the main thread raises it again.
        except BaseException as error:
            result.set_exception(error)

    # Prefect's settings live in the context of this thread.
    context = contextvars.copy_context()
    threading.Thread(target=context.run, args=(run_flow,), name="flow", daemon=True).start()


def _send_events_to(api_url: str) -> None:
    """Have Prefect give up an event soon where its server has died; it would try each for 10 s, and exit after all."""
    from prefect.events.clients import PrefectEventsClient
    from prefect.events.worker import EventsWorker

    EventsWorker.set_client_override(PrefectEventsClient, api_url=api_url, reconnection_attempts=_EVENT_RECONNECTIONS)


def _drain_events() -> None:
    """Let Prefect send what it still holds, before its server ends."""
    from prefect.events.worker import EventsWorker

    EventsWorker.drain_all(timeout=_DRAIN_PATIENCE_S)
    EventsWorker.set_client_override(None)


def _interrupt(signal_number: int, frame: Any) -> None:
    raise KeyboardInterrupt(f"signal {signal_number} in process {os.getpid()}")
