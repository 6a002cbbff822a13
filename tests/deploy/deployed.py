"""What `deployments/` stands on, as processes of this machine: a Prefect server with its services, deploy.py, one worker."""

import contextlib
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any
from uuid import UUID

from faults.rclone import free_port
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.sorting import FlowRunSort
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Cancelling

ROOT = Path(__file__).parents[2]
_START_TIMEOUT_S, _RUN_TIMEOUT_S = 120.0, 180.0
_STOP_TIMEOUT_S = 20.0
# Prefect looks every 5 to 15 s by default; a test has no time for that.
_SOON = {
    "PREFECT_WORKER_QUERY_SECONDS": "1",
    "PREFECT_WORKER_PREFETCH_SECONDS": "1",
    "PREFECT_SERVER_SERVICES_LATE_RUNS_ENABLED": "false",
    # Only what a test asks for is run: the cron schedules would fill the queue with nights to come.
    "PREFECT_SERVER_SERVICES_SCHEDULER_ENABLED": "false",
}


class Deployed:
    """A context manager. `environment` is what server, worker and flows get beside this process's own."""

    def __init__(self, folder: Path, environment: Mapping[str, str], database: str = "") -> None:
        self._port = free_port()
        self.api_url = f"http://127.0.0.1:{self._port}/api"
        self._folder = folder
        self._environment = {
            **os.environ,
            **_SOON,
            "PYTHONPATH": str(ROOT),
            "PREFECT_HOME": str(folder / "prefect"),
            "PREFECT_SERVER_DATABASE_CONNECTION_URL": database or f"sqlite+aiosqlite:///{folder}/prefect.db",
            "PREFECT_API_URL": self.api_url,
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_LOGGING_LEVEL": "INFO",
            **environment,
        }
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> "Deployed":
        with contextlib.ExitStack() as stack:
            stack.enter_context(
                self._process("server", "-m", "prefect", "server", "start", "--port", str(self._port), "--no-ui")
            )
            wait_until(self._answers, _START_TIMEOUT_S)
            self.deploy()
            worker = ("-m", "prefect", "worker", "start", "--pool", "magicvideo", "--type", "process")
            stack.enter_context(self._process("worker", *worker))
            stack.enter_context(temporary_settings({PREFECT_API_URL: self.api_url}))
            self.client: SyncPrefectClient = stack.enter_context(get_client(sync_client=True))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def deploy(self) -> None:
        """Run deploy.py, as a person would."""
        subprocess.run(
            [sys.executable, "deployments/deploy.py"], cwd=ROOT, env=self._environment, check=True, capture_output=True
        )

    def start(self, deployment: str, **parameters: Any) -> UUID:
        """Trigger a deployment by "FLOW/NAME"; returns the id of its run."""
        found = self.client.read_deployment_by_name(deployment)
        return self.client.create_flow_run_from_deployment(found.id, parameters=parameters).id

    def run(self, deployment: str, **parameters: Any) -> FlowRun:
        """Trigger a deployment and wait until its run has ended."""
        return self.wait(self.start(deployment, **parameters))

    def wait(self, run_id: UUID) -> FlowRun:
        """Wait until a run has ended, and return it."""
        wait_until(lambda: self._is_final(run_id), _RUN_TIMEOUT_S)
        return self.client.read_flow_run(run_id)

    def cancel(self, run_id: UUID) -> FlowRun:
        """Cancel a run, as the button in Prefect's UI does, and wait until it has ended."""
        self.client.set_flow_run_state(run_id, Cancelling(), force=False)
        return self.wait(run_id)

    def runs_of(self, deployment: str) -> list[FlowRun]:
        """Return the runs of a deployment, the first one first."""
        found = self.client.read_deployment_by_name(deployment)
        runs = self.client.read_flow_runs(
            flow_run_filter=FlowRunFilter.model_validate({"deployment_id": {"any_": [str(found.id)]}}),
            sort=FlowRunSort.EXPECTED_START_TIME_ASC,
        )
        return [run for run in runs if (run.expected_start_time or datetime.now(UTC)) <= datetime.now(UTC)]

    def pause(self, *, paused: bool) -> None:
        """Have the worker start nothing of the queue `bulk`, or go on."""
        queue = self.client.read_work_queue_by_name("bulk", work_pool_name="magicvideo")
        self.client.update_work_queue(queue.id, is_paused=paused)

    def _is_final(self, run_id: UUID) -> bool:
        state = self.client.read_flow_run(run_id).state
        return state is not None and state.is_final()

    def _answers(self) -> bool:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.api_url}/health", timeout=5) as answer:
            return bool(answer.status == 200)
        return False

    @contextlib.contextmanager
    def _process(self, name: str, *arguments: str) -> Iterator[None]:
        """Run Python beside this process, its output in a file of the folder."""
        with (self._folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, *arguments],
                cwd=self._folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                yield
            finally:
                process.terminate()
                try:
                    process.wait(_STOP_TIMEOUT_S)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()


def wait_until(what: Callable[[], bool], patience_s: float) -> None:
    """Wait for something that another process does."""
    give_up_s = time.monotonic() + patience_s
    while not what():
        assert time.monotonic() < give_up_s, "nothing came"
        time.sleep(0.2)
