"""Prefect's ephemeral server as a child process that starts beside everything else and never outlives its parent.

Prefect can start one by itself, but then imports its whole server into this process too (3 s and 100 MB more), starts
it only when the flow begins, lets Ctrl-C in a terminal end it before the flow has reported, and leaves it behind when
this process is killed. Run as a script this file is that child; so it imports nothing from the project.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from types import TracebackType

# Creating the database on a slow disk takes most of it.
START_TIMEOUT_S = 180.0
_STOP_TIMEOUT_S = 5.0
_PR_SET_PDEATHSIG = 1
# Prefect writes each state of a task on its own, which takes some 20 ms of CPU time and three of them a task; together
# they take a fifth. They are seen a second later, and all are written before the server ends.
_STATES_TOGETHER = {
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "100",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
}


class EphemeralServer:
    """A Prefect API on a free port of this machine; a context manager. Make it in a thread that lives as long."""

    def __init__(self) -> None:
        # The child inherits the port: in the seconds until it listens another process would take a free one.
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            self.api_url = f"http://127.0.0.1:{listener.getsockname()[1]}/api"
            # -P: the folder of this file must not become a place to import from. A session of its own: no Ctrl-C.
            self._process = subprocess.Popen(
                [sys.executable, "-P", __file__, str(listener.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                env={**_STATES_TOGETHER, **os.environ, "PREFECT_UI_ENABLED": "false", "PREFECT_API_URL": ""},
                pass_fds=[listener.fileno()],
            )

    def wait_until_healthy(self) -> None:
        """Wait until the API answers. Raises RuntimeError when the process ends or takes too long."""
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline_s:
            if self._process.poll() is not None:
                raise RuntimeError(f"Prefect's ephemeral server ended with exit code {self._process.returncode}")
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.api_url}/health", timeout=5) as answer:
                if answer.status == 200:
                    return
            time.sleep(0.05)
        raise RuntimeError(f"Prefect's ephemeral server did not answer within {START_TIMEOUT_S:g} s")

    def stop(self) -> None:
        """End the process."""
        self._process.terminate()
        try:
            self._process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> "EphemeralServer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _serve(listener: socket.socket) -> None:
    """Be the server on a bound socket until told to end, or until the parent is gone."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    import uvicorn
    from prefect.server.api.server import create_app

    app = create_app(ephemeral=True, final=True)
    uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="on")).run(sockets=[listener])


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
