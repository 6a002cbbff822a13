"""The process environment that Ray and Prefect read when they are imported."""

import os
import socket
import sys
from pathlib import Path

_ALWAYS = {
    # No reports to third parties.
    "RAY_USAGE_STATS_ENABLED": "0",
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    # Actors that claim no GPU see the machine as it is, so that device "auto" means the same in and outside of Ray.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # A Ray that this process starts: its workers do not give way to all else, and none is started before an actor asks
    # for one. On two cores either would keep the first actor from loading for seconds.
    "RAY_worker_niceness": "0",
    "RAY_prestart_worker_first_driver": "0",
}
# The table on the terminal and the manifests say what happened; only a server that stays has a use for Prefect's logs.
_EMBEDDED = {
    "PREFECT_LOGGING_LEVEL": "CRITICAL",
    "PREFECT_INTERNAL_LOGGING_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_TO_API_ENABLED": "false",
    # 2, 4 and 8 s: this run's own server is there soon or not at all.
    "PREFECT_CLIENT_MAX_RETRIES": "3",
}
_WITH_SERVER = {"PREFECT_LOGGING_LEVEL": "WARNING"}


def set_environment() -> None:
    """Set what the project needs before Ray or Prefect is imported; what a person has set stays."""
    logs = _WITH_SERVER if os.environ.get("PREFECT_API_URL") else _EMBEDDED
    for name, value in (_ALWAYS | logs).items():
        os.environ.setdefault(name, value)
    # `ray start` asks for the token that an earlier Ray of this user has left on the machine; who joins by RAY_ADDRESS
    # has to say that he gives it. Other machines are not given it unasked. Ray reads the mode when it is imported.
    if "ray" not in sys.modules and _is_here(os.environ.get("RAY_ADDRESS", "")) and _has_ray_token():
        os.environ.setdefault("RAY_AUTH_MODE", "token")


def _is_here(ray_address: str) -> bool:
    """Tell whether an address such as 192.0.2.2:6379 is one of this machine's."""
    host = ray_address.rpartition("://")[2].rpartition(":")[0].strip("[]")
    if not host:
        return False
    try:
        [(family, *_, place), *_] = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)
        # Only own addresses can be bound.
        with socket.socket(family) as probe:
            probe.bind(place)
    except OSError:
        return False
    return True


def _has_ray_token() -> bool:
    path = os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token"
    return bool(os.environ.get("RAY_AUTH_TOKEN")) or Path(path).is_file()
