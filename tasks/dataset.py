"""The Prefect task that writes a dataset: tried again where storage fails, and each time it goes on where it was."""

from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from magicvideo_core.dataset.export import export
from magicvideo_core.dataset.request import ExportRequest
from tasks.retries import RETRY_TRANSIENT


@task(name="export", cache_policy=NO_CACHE, persist_result=False, **RETRY_TRANSIENT)
def export_dataset(request: ExportRequest, to: str) -> dict[str, Any]:
    """Export runs as `request` says below the URI `to`; returns the summary as plain JSON values."""
    return export(request, to)
