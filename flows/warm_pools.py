"""The command on what runs with --keep-warm leave in a Ray cluster."""

from dataclasses import asdict

import click
from rich import box
from rich.table import Table

from flows.commands import DONE, Command
from flows.options import json_option
from flows.terminal import print_json, print_tables


@click.command(cls=Command, epilog="magicvideo pools --end")
@click.option("--end", is_flag=True, help="End those that no run has, at once.")
@json_option
def pools(end: bool, as_json: bool) -> int:
    """Show the actors that runs with --keep-warm have in the Ray cluster at RAY_ADDRESS, or end them."""
    from tasks.warm_pools import end_warm_actors, warm_actors

    ended = end_warm_actors() if end else 0
    actors = warm_actors()
    if as_json:
        print_json({"ended": ended, "actors": [asdict(actor) for actor in actors]})
        return DONE
    if end:
        print(f"{ended} ended.")
    if actors:
        table = Table("stage", "run", "node", "pid", "idle", "ends after", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        for actor in actors:
            idle = [f"{actor.idle_s:.0f} s", f"{actor.idle_limit_s:.0f} s"] if actor.run_id is None else ["", ""]
            table.add_row(actor.stage, actor.run_id or "none", actor.node_id[:8], str(actor.pid), *idle)
        print_tables(table)
    else:
        print("No warm actors.")
    return DONE
