"""What several tests share: one S3, one Ray and one Prefect API for the whole session, and a small fake configuration."""

import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from faults.proxy import FaultProxy, FaultRates
from faults.rclone import BUCKET, RcloneServer, s3_environment

from tasks.environment import set_environment

# Before any test module imports Ray or Prefect.
set_environment()
if "PYTEST_XDIST_WORKER" in os.environ:
    # One core for each of the two.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN and threading.current_thread() is threading.main_thread():
    # Tests that run in the background of a shell inherit an ignored Ctrl-C, which the commands that they start would too.
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Every stage fake and tiny: 16x16 pixels, 4 keyframes, 10 frames at the end.
FAKE = (
    *(f"{stage}.backend=fake" for stage in ("t2i", "i2v", "v2v", "vfi")),
    *(f"{stage}.{side}=16" for stage in ("t2i", "i2v", "v2v") for side in ("height", "width")),
    *(f"{stage}.num_frames=4" for stage in ("i2v", "v2v")),
    *(f"{stage}.pool.num_cpus=0.1" for stage in ("t2i", "i2v", "v2v", "vfi")),
    "vfi.x264_preset=ultrafast",
)


# Folders whose tests start Ray, Prefect or whole commands: in `make test` they go first, so that no process is left
# with a long file at the end.
_LONG = ("faults", "flows", "tasks")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the long files first, in both processes alike; within a file the order stays."""
    items.sort(key=lambda item: item.path.relative_to(Path(__file__).parent).parts[0] not in _LONG)


@pytest.fixture(scope="session")
def fake_overrides() -> tuple[str, ...]:
    """Overrides of the tiny preset that need no weights and almost no time."""
    return FAKE


@dataclass(frozen=True)
class S3:
    """A real S3 server behind a proxy that injects faults where a test sets its `rates`."""

    server: RcloneServer
    proxy: FaultProxy

    def uri(self, name: str) -> str:
        """Return the URI of a folder."""
        return f"s3://{BUCKET}/{name}"


@pytest.fixture(scope="session")
def s3_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    """The S3 of this session; this process and every one that it starts find it by their environment."""
    from fsspec.config import conf, set_conf_env

    with (
        RcloneServer(tmp_path_factory.mktemp("s3")) as server,
        FaultProxy(server.port, FaultRates()) as proxy,
        pytest.MonkeyPatch.context() as patch,
    ):
        for name, value in s3_environment(proxy.port).items():
            patch.setenv(name, value)
        # fsspec read its environment when it was imported.
        patch.delitem(conf, "s3", raising=False)
        set_conf_env(conf)
        yield S3(server, proxy)


@pytest.fixture
def s3(s3_session: S3) -> Iterator[S3]:
    """The S3 of this session, without faults at first; afterwards it is up and without faults again."""
    yield s3_session
    s3_session.proxy.rates = FaultRates()
    if s3_session.server.pid is None:
        s3_session.server.start()


@pytest.fixture(scope="session")
def local_ray(s3_session: S3) -> Iterator[None]:
    """A Ray of this session, on two CPUs; engines use it and leave it running. Its workers know the session's S3."""
    import ray

    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        object_store_memory=128 * 2**20,
        # Instead of 10 s, for the test that scrapes.
        _system_config={"metrics_report_interval_ms": 2000},
    )
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def prefect_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Prefect API of this session with a database of its own; flows in this process talk to it."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from tasks.prefect_server import EphemeralServer

    home: Path = tmp_path_factory.mktemp("prefect")
    database = {"PREFECT_HOME": str(home), "PREFECT_SERVER_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{home}/p.db"}
    before = {name: os.environ.get(name) for name in database}
    os.environ.update(database)
    server = EphemeralServer()
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.update({name: value})
    with server:
        server.wait_until_healthy()
        with temporary_settings({PREFECT_API_URL: server.api_url}):
            yield server.api_url
            _drain_prefect()


def _drain_prefect() -> None:
    """Let Prefect send what it still holds before its server ends."""
    from prefect.events.worker import EventsWorker

    EventsWorker.drain_all(timeout=5)
