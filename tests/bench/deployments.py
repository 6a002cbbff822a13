"""The deployments at length, on SQLite and on PostgreSQL: every step of tests/deploy/nights.py, and what was seen in it.

    python tests/bench/deployments.py [--databases sqlite,postgresql]

A Prefect server, a process worker, `rclone serve s3` and Ray run as processes of this machine, on free ports of the loopback;
stages are fake. Exits with 1 where a step does not hold. PostgreSQL is left out, and that is said, where it is not installed.
"""

import argparse
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from faults.rclone import BUCKET, RcloneServer, s3_environment

from tasks.environment import set_environment

STEPS: tuple[str, ...] = (
    "schedules_and_automation",
    "first_night",
    "second_night_with_a_failure",
    "retry_by_automation",
    "cancelled_night",
    "killed_night",
    "dataset_of_all",
    "dataset_again",
    "parameters_are_checked",
    "generate_by_hand",
    "training",
)
NUM_CLIPS = 9


def main() -> int:
    """Go through the steps on each database and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--databases", default="sqlite,postgresql", help="separated by commas")
    names = parser.parse_args().databases.split(",")
    set_environment()
    os.environ.setdefault("RAY_worker_niceness", "0")
    held = True
    with tempfile.TemporaryDirectory() as folder, RcloneServer(Path(folder) / "s3") as server:
        # Before anything imports fsspec, which reads it then.
        os.environ.update(s3_environment(server.port))
        for name in names:
            held &= _on_database(name, Path(folder) / name)
    return 0 if held else 1


def _on_database(name: str, folder: Path) -> bool:
    from deploy.postgres import Postgres, find_postgres

    if name == "postgresql" and find_postgres() is None:
        print("\npostgresql: not run, it is not installed here (apt-get install postgresql)")
        return True
    print(f"\n{name}, {os.cpu_count()} cores\n\n| step | seen | seconds |\n|---|---|---|", flush=True)
    folder.mkdir()
    held = True
    with ExitStack() as stack:
        database = stack.enter_context(Postgres()).url if name == "postgresql" else ""
        run = stack.enter_context(_site(folder, database))
        for step in STEPS:
            began_s = time.monotonic()
            try:
                seen = run(step)
            except Exception:
                held, seen = False, "NO, see below"
                traceback.print_exc()
            print(f"| {step.replace('_', ' ')} | {seen} | {time.monotonic() - began_s:.0f} |", flush=True)
            if not held:
                # What comes after stands on it.
                print(*(f"\n{log}:\n{log.read_text()[-4000:]}" for log in sorted(folder.glob("*.log"))), sep="\n")
                break
    return held


@contextmanager
def _site(folder: Path, database: str) -> Iterator[Callable[[str], str]]:
    """Give what goes through a step of that name on a fresh server."""
    import ray
    from conftest import FAKE
    from deploy import nights
    from deploy.deployed import Deployed

    from magicvideo_core.storage import Storage

    place = Storage(f"s3://{BUCKET}/{folder.name}")
    config_file = nights.write_config(folder, FAKE)
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        environment = nights.environment_of(place, config_file, folder, ray.get_runtime_context().gcs_address)
        with Deployed(folder, environment, database) as deployed:
            site = nights.Site(deployed, place, folder)

            def run(step: str) -> str:
                arguments = (NUM_CLIPS,) if step == "dataset_of_all" else ()
                with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
                    seen: str = getattr(nights, step)(site, *arguments)
                return seen

            yield run
    finally:
        ray.shutdown()


if __name__ == "__main__":
    sys.exit(main())
