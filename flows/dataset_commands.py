"""The commands that turn runs into training data: what is measured of clips, and what is exported of them."""

from collections.abc import Sequence
from contextlib import closing
from typing import Any

import click

from flows.commands import DONE, SOME_CLIPS_DID_NOT, Command
from flows.options import json_option
from flows.terminal import CountedProgress, print_json
from magicvideo_core.dataset.request import DEDUPES, FORMATS, SPLITS_BY, export_request
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


@click.command(
    cls=Command,
    epilog="magicvideo export runs/tonight --format webdataset --to s3://bucket/sets/tonight --where 'sharpness > 40'",
)
@click.argument("runs", nargs=-1, required=True, metavar="RUN_URI...")
@click.option(
    "--format", required=True, type=click.Choice(FORMATS), help="Tar shards, or folders and metadata.parquet."
)
@click.option("--to", required=True, metavar="URI", help="Where the dataset lies: an empty folder or any fsspec URL.")
@click.option("--stage", metavar="STAGE", help="Whose artifact is the sample; the run's last stage by default.")
@click.option("--include", metavar="A,B", help="Stages whose artifacts come along: t2i, i2v, v2v.")
@click.option("--where", multiple=True, metavar="FILTER", help="Only clips for which this holds; repeatable.")
@click.option(
    "--dedupe",
    type=click.Choice(DEDUPES),
    default="exact",
    show_default=True,
    help="exact: same prompt, settings and seed, or same bytes; near: also what looks alike.",
)
@click.option(
    "--near-distance",
    type=click.FloatRange(0, 255),
    default=1.0,
    show_default=True,
    help="Mean difference of thumbnails up to which clips look alike, in levels of 0..255.",
)
@click.option(
    "--split",
    "splits",
    default="train=1",
    show_default=True,
    metavar="NAME=SHARE,...",
    help="By a hash of each clip id.",
)
@click.option(
    "--split-by",
    type=click.Choice(SPLITS_BY),
    default="clip",
    show_default=True,
    help="prompt: clips of one prompt stay together.",
)
@click.option("--shard-clips", type=click.IntRange(1, 10_000), default=1000, show_default=True, metavar="N")
@click.option("--shard-mib", type=click.IntRange(1, 4096), default=256, show_default=True, metavar="N")
@click.option("--measurements/--no-measurements", default=True, help="Measure what is not yet, and bring it along.")
@click.option("--license", metavar="TEXT", help="The dataset's licence, for its card.")
@click.option("--dry-run", is_flag=True, help="Only say what would be exported, by what is measured already.")
@json_option
def export(
    runs: Sequence[str], to: str, include: str | None, stage: str | None, dry_run: bool, as_json: bool, **options: Any
) -> int:
    """Turn the clips that succeeded in runs into a training-ready dataset with a card.

    Filters are SQL's WHERE over the columns of manifests and measurements, and extra.NAME for those of the prompt file.
    The same command goes on where it was interrupted, and gives the same bytes.
    """
    options["license"] = options["license"] or ""
    parts = tuple(part.strip() for part in include.split(",") if part.strip()) if include else ()
    request = export_request(runs=tuple(runs), stage=stage or "", include=parts, **options)
    from magicvideo_core.dataset.export import export as export_dataset

    with closing(CountedProgress("exporting")) as progress:
        summary = export_dataset(request, to, dry_run=dry_run, on_progress=progress)
    if as_json:
        print_json(summary)
        return DONE
    for verdict, count in summary["verdicts"].items():
        print(f"{verdict}: {count}")
    for text, count in summary["filtered"].items():
        print(f"filtered by {text}: {count}")
    for split, counts in summary["splits"].items():
        print(f"split {split}: {counts['num_samples']} samples in {counts['num_shards']} shards")
    verb = "would be exported" if dry_run else "exported"
    print(f"{summary['num_samples']} of {summary['num_clips']} clips {verb}: {summary['to']}")
    return DONE
