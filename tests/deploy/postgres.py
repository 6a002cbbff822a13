"""A PostgreSQL of its own for Prefect's server: a fresh cluster in a folder of its own, on a port of the loopback."""

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType

from faults.rclone import free_port

_START_TIMEOUT_S = 60.0


def find_postgres() -> Path | None:
    """Return the folder of PostgreSQL's programs, None where there is none (`apt-get install postgresql`)."""
    # Debian keeps them off the path.
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    if (found := shutil.which("initdb")) is not None:
        folders.insert(0, Path(found).resolve().parent)
    return next((folder for folder in folders if (folder / "initdb").exists()), None)


class Postgres:
    """A context manager; `url` is what Prefect's server takes. Started by root it runs as `postgres`, which it insists on."""

    def __init__(self) -> None:
        programs = find_postgres()
        if programs is None:
            raise RuntimeError("there is no PostgreSQL: apt-get install postgresql")
        self._programs = programs
        self._user = "postgres" if os.geteuid() == 0 else None
        self._port = free_port()
        self.url = f"postgresql+asyncpg://prefect@127.0.0.1:{self._port}/prefect"

    def __enter__(self) -> "Postgres":
        # Not below a folder that only root may enter.
        self._folder = Path(tempfile.mkdtemp(prefix="postgres-"))
        if self._user is not None:
            shutil.chown(self._folder, self._user)
        self._run("initdb", "--username", "prefect", "--auth", "trust", "--no-sync", "--pgdata", str(self._folder))
        options = f"-p {self._port} -k {self._folder} -c listen_addresses=127.0.0.1"
        command = [str(self._programs / "postgres"), "-D", str(self._folder), *options.split()]
        with (self._folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, user=self._user, start_new_session=True
            )
        give_up_s = time.monotonic() + _START_TIMEOUT_S
        while True:
            with contextlib.suppress(subprocess.CalledProcessError):
                self._run("createdb", "--host", "127.0.0.1", "--port", str(self._port), "-U", "prefect", "prefect")
                return self
            if time.monotonic() > give_up_s or self._process.poll() is not None:
                self.__exit__(None, None, None)
                raise RuntimeError(f"PostgreSQL did not start: {(self._folder / 'log').read_text()[-500:]}")
            time.sleep(0.2)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Not SIGTERM, by which it waits for its clients.
        self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self._programs / program), *arguments]
        # Not in a folder that the user may not enter.
        subprocess.run(command, check=True, capture_output=True, user=self._user, cwd="/")
