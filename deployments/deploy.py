"""Creates the work pool, its queues and every deployment of prefect.yaml on the Prefect server of PREFECT_API_URL.

    python deployments/deploy.py [what `prefect deploy` takes; --all by default]

To be given again after every change; what exists is brought up to date. The environment it goes by is that of prefect.yaml.
"""

import os
import sys
from contextlib import suppress
from pathlib import Path

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound

POOL = "magicvideo"
# Flows at a time in each: what computes on the pools of actors goes by `bulk`.
QUEUES = {"bulk": 1, "training": 1, "datasets": 1}
REQUIRED = {
    "PREFECT_API_URL": "the API of your Prefect server, such as http://prefect:4200/api",
    "MAGICVIDEO_INBOX": "the folder of prompt files, such as s3://bucket/prompts",
    "MAGICVIDEO_OUTPUT": "where runs lie, such as s3://bucket/runs",
    "MAGICVIDEO_DATASETS": "where datasets lie, such as s3://bucket/datasets",
}
OPTIONAL = {"MAGICVIDEO_CONFIG": "", "MAGICVIDEO_PRESET": "tiny", "MAGICVIDEO_FAMILY": "family"}


def main() -> None:
    """Create the pool and its queues, then go on as `prefect deploy`."""
    for name, meaning in REQUIRED.items():
        if not os.environ.get(name):
            sys.exit(f"{name} is not set: set it to {meaning}.")
    for name, value in OPTIONAL.items():
        os.environ.setdefault(name, value)
    with get_client(sync_client=True) as client:
        if (problem := client.api_healthcheck()) is not None:
            sys.exit(f"Prefect at PREFECT_API_URL={os.environ['PREFECT_API_URL']} does not answer: {problem}")
        create_pool(client)
    words = ["--no-prompt", "deploy", *(sys.argv[1:] or ["--all"])]
    words += ["--prefect-file", str(Path(__file__).with_name("prefect.yaml"))]
    os.execv(sys.executable, [sys.executable, "-m", "prefect", *words])


def create_pool(client: SyncPrefectClient) -> None:
    """Create the pool for process workers and its queues; of those that exist only the limits are set."""
    with suppress(ObjectAlreadyExists):
        client.create_work_pool(WorkPoolCreate(name=POOL, type="process"))
    for name, limit in QUEUES.items():
        try:
            queue = client.read_work_queue_by_name(name, work_pool_name=POOL)
        except ObjectNotFound:
            queue = client.create_work_queue(name, work_pool_name=POOL)
        client.update_work_queue(queue.id, concurrency_limit=limit)


if __name__ == "__main__":
    main()
