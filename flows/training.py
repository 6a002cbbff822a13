"""The command `magicvideo train`: one module in this process, or by the flow `train` where it takes Ray or a chain."""

import logging
import sys
from pathlib import Path
from typing import Any

import click

from flows.commands import DONE, INTERRUPTED, Command, print_stopped
from flows.terminal import print_traceback
from magicvideo_core.errors import InputError


@click.command(cls=Command, epilog="magicvideo train i2v --base family --output family-i2v --steps 4000")
@click.argument("module", type=click.Choice(["vae", "t2i", "i2v", "v2v", "vfi"]))
@click.option("--output", required=True, metavar="DIR", help="Weights, checkpoint and log; training continues from it.")
@click.option("--base", metavar="DIR", help="The family so far: vae/ for t2i, t2i/ (and i2v/, v2v/) for the others.")
@click.option("--data", metavar="URI", multiple=True, help="Parquet manifest, glob or folder of own media; repeatable.")
@click.option("--chain", is_flag=True, help="Train every module after MODULE too, each into its own folder.")
@click.option(
    "--workers", type=click.IntRange(min=1), default=1, show_default=True, help="Processes that share batches."
)
@click.option("--parts", type=click.IntRange(min=1), help="Parts that each batch comes in; what workers share.")
@click.option("--steps", type=click.IntRange(min=1), help="Steps in all; the module's own number by default.")
@click.option("--learning-rate", type=click.FloatRange(min=0, min_open=True))
@click.option("--optimizer", type=click.Choice(["adamw", "muon"]), help="muon but for vae and vfi by default.")
@click.option(
    "--ema-decay", type=click.FloatRange(0, 1, max_open=True), help="Of the averaged weights that are stored."
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option(
    "--threads", type=click.IntRange(min=1), help="Of torch, in each process.  [default: 2, shared by workers]"
)
@click.option("--mixture", metavar="KIND=SHARE,...", help="Kinds of batches: i2v, v2v, image64, image128.")
@click.option("--frames-per-clip", type=click.IntRange(2, 16), help="Keyframes that each training clip shows.")
@click.option("--caption-dropout", type=click.FloatRange(0, 1), help="Share of captions left out.  [default: 0.1]")
@click.option("--reference-dropout", type=click.FloatRange(0, 1), help="Share of references left out.  [default: 0.1]")
@click.option("--train-spatial/--freeze-spatial", default=None, help="Whether video modules train the shared layers.")
@click.option("--peers", metavar="DIR", help="Exchange folder: average weights with other processes of this machine.")
@click.option("--rank", type=click.IntRange(min=0), default=0, help="This process among the peers, from 0.")
@click.option("--world", type=click.IntRange(min=2), default=2, help="How many peers there are.")
def train(
    module: str,
    output: str,
    base: str | None,
    chain: bool,
    workers: int,
    peers: str | None,
    rank: int,
    world: int,
    **options: Any,
) -> int:
    """Train one MODULE of the embedded family: vae, t2i, i2v, v2v or vfi.

    On rendered Moving Shapes, or on your own captioned media with --data.
    """
    logging.getLogger("magicvideo_core.training").setLevel(logging.INFO)
    options["threads"] = options["threads"] or max(1, 2 // workers)
    if options["mixture"]:
        from magicvideo_core.training.modules import parse_mixture

        options["mixture"] = parse_mixture(options["mixture"])
    given = {name: value for name, value in options.items() if value is not None and value != ()}
    if not chain and workers == 1:
        return _train_here(module, output, base, peers, rank, world, given)
    if peers:
        raise click.UsageError("--peers is for one module in one process: leave out --peers, or --workers and --chain.")
    arguments = dict(module=module, output=output, base=base, chain=chain, workers=workers, options=given)
    return _train_by_flow(arguments)


def _train_here(
    module: str, output: str, base: str | None, peers: str | None, rank: int, world: int, options: dict[str, Any]
) -> int:
    from magicvideo_core.training.modules import train as train_module
    from magicvideo_core.training.peers import PeerAveraging

    train_module(
        module,
        Path(output),
        base=Path(base) if base else None,
        peers=PeerAveraging(Path(peers), rank, world) if peers else None,
        **options,
    )
    return DONE


def _train_by_flow(arguments: dict[str, Any]) -> int:
    from tasks.environment import set_environment

    set_environment()
    from tasks.training import plan_training

    # Before anything starts: what is wrong with the request.
    plan_training(**arguments)
    from flows.launch import run_train

    try:
        folders = run_train(arguments)
    except InputError:
        raise
    except (KeyboardInterrupt, Exception) as error:
        if not isinstance(error, KeyboardInterrupt):
            print_traceback()
        print_stopped(error, ["magicvideo", *sys.argv[1:]])
        return INTERRUPTED
    for name, folder in folders.items():
        print(f"{name}: {folder}")
    return DONE
