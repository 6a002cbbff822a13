"""The commands that turn runs into training data: what is measured of clips, and what is exported of them."""

from contextlib import closing

import click

from flows.commands import DONE, SOME_CLIPS_DID_NOT, Command
from flows.options import json_option
from flows.terminal import CountedProgress, print_json
from magicvideo_core.storage import Storage


@click.command(cls=Command, epilog="magicvideo measure runs/20261122-201500-1a2b")
@click.argument("run_uri")
@click.option("--stage", metavar="STAGE", help="Whose artifacts are measured; the run's last stage by default.")
@click.option("--again", is_flag=True, help="Measure also what is measured already.")
@json_option
def measure(run_uri: str, stage: str | None, again: bool, as_json: bool) -> int:
    """Measure the finished clips of a run: brightness, sharpness, motion, flicker, and the oracle's verdict on its prompts.

    Facts in tables of their own, RUN_URI/measurements/STAGE/*.parquet; what is measured already is left as it is.
    Exit code 1 where a clip cannot be measured.
    """
    from magicvideo_core.dataset.measurements import measure_run

    with closing(CountedProgress("measuring")) as progress:
        summary = measure_run(Storage(run_uri), stage, again=again, on_clip=progress)
    if as_json:
        print_json(summary.to_json())
    else:
        for problem in summary.problems:
            print(problem)
        print(
            f"{summary.num_clips} clips of stage {summary.stage}, {summary.num_measured} of them measured now: "
            f"{summary.run_uri}"
        )
    return SOME_CLIPS_DID_NOT if summary.problems else DONE
