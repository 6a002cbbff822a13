"""The commands that measure: the oracle's verdict on a run."""

from contextlib import closing

import click

from flows.commands import DONE, Command
from flows.options import json_option
from flows.terminal import CountedProgress, error_console
from magicvideo_core.errors import InputError
from magicvideo_core.storage import Storage


@click.command(cls=Command, epilog="magicvideo evaluate runs/20261122-201500-1a2b --stage all --write")
@click.argument("run_uri", required=False)
@click.option(
    "--stage", default="vfi", show_default=True, help="What to judge: t2i, i2v, bicubic (keyframes), v2v, vfi; or all."
)
@click.option("--write", is_flag=True, help="Write the verdict beside the run's report too: Markdown, JSON, a plot.")
@click.option("--write-prompts", metavar="FILE.jsonl", help="Instead of judging: write prompts for `generate`.")
@click.option("--count", type=click.IntRange(min=1), default=120, show_default=True, help="How many prompts.")
@click.option("--objects", type=click.IntRange(1, 2), default=1, show_default=True, help="Objects of each prompt.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Which set of prompts.")
@json_option
def evaluate(
    run_uri: str | None,
    stage: str,
    write: bool,
    write_prompts: str | None,
    count: int,
    objects: int,
    seed: int,
    as_json: bool,
) -> int:
    """Judge a run of Moving Shapes prompts with the oracle: background, colour, size, shape, texture, motion.

    Besides what is right it measures how well frames keep the reference image, how far things move, how much texture
    and flicker there is; `--stage all` has every stage in one table, before and after interpolation. With
    --write-prompts it writes prompts for such a run instead, trained and held-out triples in turn.
    """
    if (run_uri is None) == (write_prompts is None):
        raise click.UsageError("Give either RUN_URI to judge a run, or --write-prompts FILE.jsonl.")
    if run_uri is None:
        from magicvideo_core.evaluation.prompt_sets import write_prompt_file

        try:
            print(write_prompt_file(str(write_prompts), count, seed, objects))
        except ValueError as error:
            raise InputError(f"Invalid --count {count}: {error}.") from None
        except OSError as error:
            raise InputError(
                f"Prompts cannot be written to {write_prompts}: {error.strerror}; choose a file."
            ) from None
        return DONE
    from magicvideo_core.evaluation.runs import evaluate_run, write_report_files

    with closing(CountedProgress("judging")) as progress:
        verdict = evaluate_run(run_uri, stage, progress)
    print(verdict.as_json() if as_json else verdict.as_markdown())
    for uri in write_report_files(Storage(run_uri), verdict, stage) if write else ():
        error_console().print(uri, markup=False)
    return DONE
