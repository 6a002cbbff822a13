"""Starts compose.yaml, has the night make videos of two prompts, looks at what came of it, and takes everything down again.

    python infra/try_compose.py [--no-build] [--file MORE.yaml]... [--keep]

As infra/README.md says to a person, with passwords made up. Needs Docker and its compose plugin, and free ports, or an
overriding file without ports. Says for each step what was seen; exits with 1 where one fails. Volumes are its own and removed.
"""

import argparse
import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

INFRA = Path(__file__).parent
PROJECT = "magicvideo-try"
PROMPTS = "a small green star moving left on a white background\na big red circle moving right on a navy background\n"
_UP_TIMEOUT_S, _NIGHT_TIMEOUT_S, _SCRAPE_TIMEOUT_S = 900, 900, 90
_VARIABLES = {"$run_id": ".*", "$last_stage": "vfi", "$__rate_interval": "5m"}
# Where nothing failed, and on a host without GPUs.
_MAY_BE_EMPTY = {"Failed tries per hour, by type", "GPU-hours", "GPUs of the cluster in use"}
_PUT = """import sys; from magicvideo_core.storage import Storage
Storage("s3://magicvideo/prompts").write("first.txt", sys.stdin.buffer.read())"""
_FIND_RUN = """from magicvideo_core.storage import Storage
print({key.split("/")[0] for key in Storage("s3://magicvideo/runs").list()}.pop())"""
_QUERY = """import json, sys, urllib.parse, urllib.request
url = "http://prometheus:9090/api/v1/query?" + urllib.parse.urlencode({"query": sys.argv[1]})
print(json.dumps(json.load(urllib.request.urlopen(url))["data"]["result"]))"""


class Composed:
    """The services of the compose files as one project of its own."""

    def __init__(self, files: Sequence[str]) -> None:
        names = [str(INFRA / "compose.yaml"), *files]
        words = [word for name in names for word in ("--file", name)]
        self._command = ["docker", "compose", "--project-name", PROJECT, *words, "--profile", "monitoring"]
        self._environment = {
            "MINIO_USER": "try",
            **{f"{name}_PASSWORD": secrets.token_hex(12) for name in ("MINIO", "POSTGRES", "GRAFANA")},
            **os.environ,
        }

    def __call__(self, *words: str, given: str = "", timeout_s: float = 300) -> str:
        """Run `docker compose` and return what it prints. Raises CalledProcessError, whose output says what is wrong."""
        done = subprocess.run(
            [*self._command, *words],
            env=self._environment,
            input=given,
            text=True,
            capture_output=True,
            timeout=timeout_s,
            check=True,
        )
        return done.stdout.strip()

    def python(self, code: str, *words: str, given: str = "") -> str:
        """Run Python in the driver's container."""
        return self("exec", "-T", "driver", "python", "-c", code, *words, given=given)


def main() -> int:
    """Go through the steps."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--no-build", action="store_true", help="the images are there")
    parser.add_argument("--file", action="append", default=[], help="a further compose file over compose.yaml")
    parser.add_argument("--keep", action="store_true", help="leave it running")
    options = parser.parse_args()
    compose = Composed(options.file)
    try:
        for step in (up, night, metrics):
            began_s = time.monotonic()
            seen = step(compose, options)
            print(f"{step.__name__}: {seen} ({time.monotonic() - began_s:.0f} s)", flush=True)
    except subprocess.CalledProcessError as error:
        print(f"failed: {' '.join(error.cmd)}\n{error.stdout}\n{error.stderr}", file=sys.stderr)
        print(compose("logs", "--tail", "40"), file=sys.stderr)
        return 1
    finally:
        if not options.keep:
            compose("down", "--volumes", "--timeout", "60")
    return 0


def up(compose: Composed, options: argparse.Namespace) -> str:
    """Start every service, and wait until the driver's node and its worker are there."""
    compose("up", "--detach", "--no-build" if options.no_build else "--build", timeout_s=_UP_TIMEOUT_S)
    running = [json.loads(line) for line in compose("ps", "--all", "--format", "json").splitlines()]
    ended = sorted(each["Service"] for each in running if each["State"] != "running")
    assert ended == ["bucket", "deploy"], ended
    return f"{len(running)} services; {' and '.join(ended)} have done what they do once"


def night(compose: Composed, options: argparse.Namespace) -> str:
    """Put a prompt file into the inbox, start the night and read the run's status."""
    compose.python(_PUT, given=PROMPTS)
    compose(
        "exec", "-T", "driver", "prefect", "deployment", "run", "nightly/nightly", "--watch", timeout_s=_NIGHT_TIMEOUT_S
    )
    run = compose.python(_FIND_RUN)
    status = json.loads(
        compose("exec", "-T", "driver", "magicvideo", "status", f"s3://magicvideo/runs/{run}", "--json")
    )
    counts = {stage: each["succeeded"] for stage, each in status["stages"].items()}
    assert counts == dict.fromkeys(("t2i", "i2v", "v2v", "vfi"), 2), status
    return f"run {run}, clips that succeeded: {counts}"


def metrics(compose: Composed, options: argparse.Namespace) -> str:
    """Ask Prometheus for every expression of the dashboard, as it was at any time of the last quarter of an hour."""
    dashboard = json.loads((INFRA / "monitoring" / "dashboard.json").read_text())
    panels = [(panel["title"], target["expr"]) for panel in dashboard["panels"] for target in panel.get("targets", [])]
    give_up_s = time.monotonic() + _SCRAPE_TIMEOUT_S
    while True:
        empty = {title for title, expression in panels if not _has_data(compose, expression)}
        if empty <= _MAY_BE_EMPTY:
            return f"{len(panels)} expressions of the dashboard, without data: {', '.join(sorted(empty)) or 'none'}"
        assert time.monotonic() < give_up_s, f"no data for {', '.join(sorted(empty))}"
        time.sleep(5)


def _has_data(compose: Composed, expression: str) -> bool:
    for name, value in _VARIABLES.items():
        expression = expression.replace(name, value)
    # Gauges of a run end with it.
    return bool(json.loads(compose.python(_QUERY, f"max_over_time(({expression})[15m:15s])")))


if __name__ == "__main__":
    sys.exit(main())
