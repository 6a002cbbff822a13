"""The flow that turns finished runs into a training-ready dataset."""

from typing import Any

from prefect import flow

from flows.parameters import (
    DatasetFormat,
    DatasetPlace,
    Dedupe,
    ExportedRuns,
    ExportedStage,
    Include,
    License,
    Measurements,
    NearDistance,
    ShardClips,
    ShardMib,
    SplitBy,
    Splits,
    Where,
)
from magicvideo_core.dataset.request import export_request
from tasks.dataset import export_dataset


@flow(name="export", flow_run_name="export-{format}", persist_result=False)
def export(
    runs: ExportedRuns,
    to: DatasetPlace,
    format: DatasetFormat = "webdataset",
    stage: ExportedStage = "",
    include: Include = [],  # noqa: B006 (Prefect copies it, and its form shows a list)
    where: Where = [],  # noqa: B006
    dedupe: Dedupe = "exact",
    near_distance: NearDistance = 1.0,
    splits: Splits = "train=1",
    split_by: SplitBy = "clip",
    shard_clips: ShardClips = 1000,
    shard_mib: ShardMib = 256,
    measurements: Measurements = True,
    license: License = "",
) -> dict[str, Any]:
    """Export the clips that succeeded in `runs` (URIs) below the URI `to`; returns the summary of the dataset.

    As `magicvideo export` does: the same arguments go on where an export was interrupted, and change nothing where it is
    whole. Raises ConfigError where the request is wrong or no clip is left.
    """
    request = export_request(
        runs=tuple(runs),
        format=format,
        stage=stage,
        include=tuple(include),
        where=tuple(where),
        dedupe=dedupe,
        near_distance=near_distance,
        splits=splits,
        split_by=split_by,
        shard_clips=shard_clips,
        shard_mib=shard_mib,
        measurements=measurements,
        license=license,
    )
    return export_dataset(request, to)
