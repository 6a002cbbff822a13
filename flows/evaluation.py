"""The commands that measure: the oracle's verdict on a run, and what each part of the system is worth."""

import json
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import click

from flows.commands import DONE, SOME_CLIPS_DID_NOT, Command
from flows.options import config_options, json_option
from flows.terminal import CountedProgress, error_console, print_json
from magicvideo_core.config import load_config
from magicvideo_core.errors import InputError
from magicvideo_core.storage import Storage, check_writable


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


@click.command(cls=Command, epilog="magicvideo ablate --output ablations --count 100")
@click.option("--output", required=True, metavar="URI", help="Where pictures and verdicts lie; the same goes on there.")
@click.option("--count", type=click.IntRange(min=1), default=100, show_default=True, help="How many prompts.")
@click.option("--objects", type=click.IntRange(1, 2), default=1, show_default=True, help="Objects of each prompt.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Which set of prompts.")
@click.option("--only", metavar="NAME,...", help="Only these variants beside the baseline; all by default.")
@click.option("--weights", metavar="DIR", help="A family trained without joint images: the variant no-joint-training.")
@config_options
@json_option
def ablate(
    output: str,
    count: int,
    objects: int,
    seed: int,
    only: str | None,
    weights: str | None,
    preset: str,
    config_file: str | None,
    overrides: Sequence[str],
    as_json: bool,
) -> int:
    """Switch off one part of I2V or V2V at a time, on the same prompts and seeds, and say what it costs.

    In this process, without Prefect or Ray: T2I once, then I2V, V2V and the oracle for every variant, each compared
    with the baseline clip by clip. The same command goes on where it was interrupted.
    """
    from magicvideo_core.evaluation.variants import choose_variants

    names = [name.strip() for name in only.split(",") if name.strip()] if only else []
    variants = choose_variants(names, Path(weights) if weights else None)
    load_config(preset, config_file, overrides)
    check_writable(output)
    from magicvideo_core.evaluation.ablation_tables import ablations_json, ablations_markdown, ablations_svg
    from magicvideo_core.evaluation.ablations import ablation_clips, resolve_ablations, run_ablations

    ablations, same = resolve_ablations(
        variants, lambda changes: load_config(preset, config_file, (*overrides, *changes))
    )
    try:
        clips = ablation_clips(count, seed, objects)
    except ValueError as error:
        raise InputError(f"Invalid --count {count}: {error}.") from None
    title = f"Ablations: {count} prompts of {'one object' if objects == 1 else 'two objects'}"
    notes = [f"{each.text}: the baseline, under another name." for each in same]
    storage, verdicts, started = Storage(output), [], time.monotonic()
    with closing(CountedProgress("ablations")) as progress:
        for verdict in run_ablations(storage, clips, ablations, progress):
            verdicts.append(verdict)
            # After every variant: what is done so far can be read while the next one runs.
            storage.write("ablations.md", ablations_markdown(verdicts, title, notes).encode())
            storage.write("ablations.svg", ablations_svg(verdicts, title).encode())
            storage.write("ablations.json", json.dumps(ablations_json(verdicts)).encode())
            error_console().print(f"{verdict.variant.name}: {time.monotonic() - started:.0f} s", markup=False)
    print_json(ablations_json(verdicts)) if as_json else print(ablations_markdown(verdicts, title, notes))
    return SOME_CLIPS_DID_NOT if any(verdict.failed for verdict in verdicts) else DONE
