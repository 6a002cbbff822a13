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
from tasks.inbox import RunsToExport, find_finished_runs


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
    it is: a schedule writes nothing as long as there is nothing new. A run whose record cannot be read is left out, and
    named in the state's message. As `magicvideo export` does otherwise.
    """
    found = RunsToExport(list(runs), []) if runs else find_finished_runs(output, finished)
    left_out = "".join(f"; left out: {problem}" for problem in found.problems)
    if not found.uris:
        return Completed(message=f"no run below {output} is finished: nothing to do{left_out}")
    request = export_request(
        runs=tuple(found.uris),
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
    message = f"{summary['num_samples']} samples of {len(found.uris)} runs: {summary['to']}{left_out}"
    return Completed(message=message, data=summary)
