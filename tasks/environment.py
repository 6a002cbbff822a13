"""The process environment that Ray and Prefect read when they are imported."""

import os

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
    # What every actor needs; a spare process (`pools/spares.py`) then has it before it gets its actor.
    "RAY_preload_python_modules": "tasks.pools.process",
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
