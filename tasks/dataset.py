"""The Prefect task that writes a dataset: tried again where storage fails, and each time it goes on where it was."""

import hashlib
import json
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from magicvideo_core.dataset.export import export, plan_export, write_export
from magicvideo_core.dataset.request import ExportRequest
from tasks.retries import RETRY_TRANSIENT


@task(name="export", cache_policy=NO_CACHE, persist_result=False, **RETRY_TRANSIENT)
def export_dataset(request: ExportRequest, to: str) -> dict[str, Any]:
    """Export runs as `request` says below the URI `to`; returns the summary as plain JSON values."""
    return export(request, to)


@task(name="export_by_content", cache_policy=NO_CACHE, persist_result=False, **RETRY_TRANSIENT)
def export_by_content(request: ExportRequest, folder: str, series: str) -> dict[str, Any]:
    """Export runs to `folder`/`series`-HASH, where the hash is over all that decides the dataset's bytes."""
    plan = plan_export(request)
    digest = hashlib.sha256(json.dumps(plan.identity(), sort_keys=True).encode()).hexdigest()
    return write_export(plan, f"{folder.rstrip('/')}/{series}-{digest[:16]}")
