"""The flow that builds a dataset of every finished run of a folder: again only where it would be another one."""

from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed

from flows.parameters import (
    DatasetFormat,
    Datasets,
    DatasetSeries,
    Dedupe,
    Finished,
    Include,
    License,
    Measurements,
    Output,
    Runs,
    ShardClips,
    SplitBy,
    Splits,
    Where,
)
from magicvideo_core.dataset.request import export_request
from tasks.dataset import export_by_content
from tasks.inbox import find_finished_runs


@flow(name="dataset", flow_run_name="dataset-{series}", persist_result=False)
def dataset(
    output: Output,
    datasets: Datasets,
    series: DatasetSeries = "dataset",
    runs: Runs = [],  # noqa: B006 (Prefect copies it, and its form shows a list)
    finished: Finished = True,
    format: DatasetFormat = "webdataset",
    include: Include = [],  # noqa: B006
    where: Where = [],  # noqa: B006
    dedupe: Dedupe = "exact",
    splits: Splits = "train=1",
    split_by: SplitBy = "clip",
    shard_clips: ShardClips = 1000,
    measurements: Measurements = True,
    license: License = "",
) -> State[Any]:
    """Export `runs`, or every one below `output`, to `datasets`/`series`-HASH, where the hash is over what the dataset holds.

    The same clips by the same choice give the same place, where an interrupted export goes on and a whole one stays as
    it is: a schedule writes nothing as long as there is nothing new. As `magicvideo export` does otherwise.
    """
    found = list(runs) or find_finished_runs(output, finished)
    if not found:
        return Completed(message=f"no run below {output} is finished: nothing to do")
    request = export_request(
        runs=tuple(found),
        format=format,
        include=tuple(include),
        where=tuple(where),
        dedupe=dedupe,
        splits=splits,
        split_by=split_by,
        shard_clips=shard_clips,
        measurements=measurements,
        license=license,
    )
    summary = export_by_content(request, datasets, series)
    return Completed(message=f"{summary['num_samples']} samples of {len(found)} runs: {summary['to']}", data=summary)
