"""Connects to the Ray cluster that RAY_ADDRESS names, or starts Ray on this machine."""

import logging
import os
import signal
import socket
import sys
import threading
from typing import Any

from magicvideo_core.errors import ConfigError

# Ray keeps only small messages for this project: frames go through storage.
_OBJECT_STORE_BYTES = 128 * 2**20
_CONNECT_TIMEOUT_S = 10.0


def connect_to_ray(num_cpus: int, *, outlives_process: bool = False) -> bool:
    """Connect to RAY_ADDRESS, or start Ray here, saying that it has `num_cpus`; False where this process has one already.

    Whoever gets True shuts it down. Raises ConfigError where nothing answers at RAY_ADDRESS or it does not let this
    process join, or where a Ray that `outlives_process` is asked for and none is set.
    """
    import ray

    if ray.is_initialized():
        return False
    if outlives_process:
        check_ray_outlives_process()
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if not os.environ.get("RAY_ADDRESS"):
        options |= {
            "address": "local",
            "num_cpus": num_cpus,
            "include_dashboard": False,
            "object_store_memory": _OBJECT_STORE_BYTES,
        }
        ray.init(**options)
        return True
    check_ray_answers(os.environ["RAY_ADDRESS"])
    try:
        ray.init(**options)
    except ConnectionError as error:
        raise ConfigError(
            f"Ray at RAY_ADDRESS={os.environ['RAY_ADDRESS']} answers but cannot be joined ({error}): where its `ray start` "
            "said that token authentication is enabled, set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN here too."
        ) from None
    return True


def check_ray_outlives_process() -> None:
    """Raise ConfigError where this process would start a Ray of its own, which ends with it."""
    ray = sys.modules.get("ray")
    if not os.environ.get("RAY_ADDRESS") and not (ray is not None and ray.is_initialized()):
        raise ConfigError(
            "Warm actors need a Ray that goes on after a run: start one (ray start --head) and set RAY_ADDRESS."
        )


def import_ray() -> None:
    """Import Ray by itself: it takes more than a second, and beside Prefect both would take as long as both.

    With it comes what Ray imports with its first call and Prefect with its first flow: two threads that begin to import
    `pydantic.v1` at the same time find it half there and fail.
    """
    import pydantic.v1.fields  # noqa: F401
    import ray  # noqa: F401


def check_ray_answers(address: str) -> None:
    """Raise ConfigError where nothing listens at a RAY_ADDRESS with a port; Ray itself would try for many minutes."""
    host, colon, port = address.rpartition("://")[2].rpartition(":")
    if not colon or not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_TIMEOUT_S).close()
    except OSError as error:
        raise ConfigError(
            f"Ray at RAY_ADDRESS={address} does not answer ({error}): start that cluster, or unset RAY_ADDRESS."
        ) from None


def restore_sigterm() -> None:
    """Put this process's handler of SIGTERM, such as Prefect's for cancelling, in force again.

    Ray puts one of its own in its place when it starts, below Python, which aborts the process.
    """
    handler = signal.getsignal(signal.SIGTERM)
    if handler is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)
