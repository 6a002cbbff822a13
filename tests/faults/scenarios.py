"""The drills that the project has to pass, each for a number of faults: what is disturbed, on which storage and cluster."""

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from faults import disturbances, drill
from faults.drill import Driver, Key, Load, Verdict
from faults.proxy import FaultProxy, FaultRates
from faults.rclone import BUCKET, RcloneServer, s3_environment

NUM_ACTORS = 4


@dataclass(frozen=True)
class Setting:
    """What the drills of one series share: the load, the truth to compare with, and the seed of the faults."""

    load: Load
    truth: dict[Key, str]
    seed: int = 0


def actor_killed(setting: Setting, times: int) -> Verdict:
    """Stage actors are killed while they compute."""
    # Deaths by chance meet one clip several times when there are many, which looks like poison: room for that. Room for
    # bad luck of a slot too.
    caps = tuple(
        f"{stage}.pool.{cap}" for stage in drill.STAGES for cap in ("max_clip_attempts=20", "max_actor_deaths=40")
    )
    load = replace(setting.load, overrides=(*setting.load.overrides, *caps))
    # A death costs the clip that computes, and the one before it where that is still being stored.
    return drill.drill(
        "actor-killed", load, setting.truth, disturbances.kill_an_actor, times=times, actors=2, seed=setting.seed
    )


def driver_killed(setting: Setting, times: int) -> Verdict:
    """The driver dies without a word, and all it had started with it."""
    return _drill("driver-killed", setting, disturbances.kill_the_driver, times)


def driver_interrupted(setting: Setting, times: int) -> Verdict:
    """Ctrl-C, or SIGTERM from a scheduler."""
    return _drill("interrupted", setting, disturbances.interrupt, times)


def prefect_killed(setting: Setting, times: int) -> Verdict:
    """Prefect's server dies under the flow."""
    return _drill("prefect-killed", setting, disturbances.kill_prefect, times)


def torn_writes(setting: Setting, times: int) -> Verdict:
    """The machine loses power: the newest artifact, record, manifest, plan and session are cut in half."""
    verdict = _drill("torn-writes", setting, disturbances.tear_writes, times)
    # A torn object is computed again, and so is what was in flight.
    verdict.in_flight = times * NUM_ACTORS + verdict.faults
    return verdict


def s3_requests_failing(setting: Setting, share: float) -> Verdict:
    """A share of all requests to S3 meets a 503, a 500, a reset, a lost reply, half an answer or a slow one."""
    with _s3() as (server, proxy, environment):
        proxy.rates = FaultRates.evenly(share, slow_s=0.5)
        verdict = _drill("s3-failing", setting, None, 0, server=server, environment=environment)
        verdict.faults = proxy.num_injected()
    return replace(verdict, name=f"s3-{share:.0%}-failing", in_flight=0)


def s3_restarted(setting: Setting, times: int, down_s: float = 2.0) -> Verdict:
    """The S3 server is killed, stays away for a while, and comes back."""
    with _s3() as (server, _proxy, environment):

        def restart(driver: Driver) -> int:
            server.kill()
            time.sleep(down_s)
            server.start()
            time.sleep(driver.random.uniform(0.5, 1.5))
            return 1

        return _drill("s3-restarted", setting, restart, times, server=server, environment=environment)


def key_taken_back(setting: Setting, times: int) -> Verdict:
    """The credentials of a run are taken back while it works; the command that goes on has new ones."""
    patience = tuple(f"{stage}.pool.storage_patience_s=5" for stage in drill.STAGES)
    load = replace(setting.load, overrides=(*setting.load.overrides, *patience))
    with _s3() as (server, proxy, environment):

        def rotate(driver: Driver) -> int:
            server.kill()
            server.keys = ((f"key-{driver.num_written()}", "its-secret-key"),)
            server.start()
            environment.update(s3_environment(proxy.port, server.keys[0]))
            # With its old key the driver finds nothing to do any more.
            code = driver.process.wait(drill.COMMAND_TIMEOUT_S)
            if code != 3:
                raise RuntimeError(f"a driver whose key was taken back ended with exit code {code}")
            return 1

        return _drill(
            "key-taken-back", replace(setting, load=load), rotate, times, server=server, environment=environment
        )


def node_lost(setting: Setting, times: int) -> Verdict:
    """A Ray node dies with the actors on it; a while later another one joins."""
    # Two actors a stage, so that both nodes have some.
    pools = tuple(f"{stage}.pool.max_actors=2" for stage in drill.STAGES)
    load = replace(setting.load, overrides=(*setting.load.overrides, *pools))
    with _cluster() as (cluster, address):

        def lose_a_node(driver: Driver) -> int:
            node = cluster.worker_nodes and next(iter(cluster.worker_nodes))
            if not node:
                return 0
            cluster.remove_node(node, allow_graceful=False)
            time.sleep(1.0)
            cluster.add_node(num_cpus=1)
            return 1

        return _drill(
            "node-lost", replace(setting, load=load), lose_a_node, times, environment={"RAY_ADDRESS": address}
        )


SCENARIOS: dict[str, Callable[[Setting, int], Verdict]] = {
    "actor-killed": actor_killed,
    "driver-killed": driver_killed,
    "interrupted": driver_interrupted,
    "prefect-killed": prefect_killed,
    "torn-writes": torn_writes,
    "s3-failing": lambda setting, _: s3_requests_failing(setting, 0.2),
    "s3-restarted": s3_restarted,
    "key-taken-back": key_taken_back,
    "node-lost": node_lost,
}


def _drill(
    name: str,
    setting: Setting,
    disturb: drill.Disturb | None,
    times: int,
    *,
    server: RcloneServer | None = None,
    environment: dict[str, str] | None = None,
) -> Verdict:
    places: dict[str, Any] = {}
    if server is not None:
        bucket = server.folder / BUCKET
        (bucket / "prompts.txt").write_text(setting.load.prompts.read_text())
        places = {"output": bucket, "output_uri": f"s3://{BUCKET}", "prompts": f"s3://{BUCKET}/prompts.txt"}
    return drill.drill(
        name,
        setting.load,
        setting.truth,
        disturb,
        times=times,
        actors=NUM_ACTORS if name != "node-lost" else 2 * NUM_ACTORS,
        seed=setting.seed,
        environment=environment,
        **places,
    )


@contextmanager
def _s3() -> Iterator[tuple[RcloneServer, FaultProxy, dict[str, str]]]:
    with (
        tempfile.TemporaryDirectory() as folder,
        RcloneServer(Path(folder)) as server,
        FaultProxy(server.port, FaultRates()) as proxy,
    ):
        yield server, proxy, s3_environment(proxy.port)


@contextmanager
def _cluster() -> Iterator[tuple[Any, str]]:
    """A Ray cluster of two nodes on this machine, in which no driver runs yet."""
    from tasks.environment import set_environment

    set_environment()
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        cluster.add_node(num_cpus=1)
        yield cluster, cluster.address
    finally:
        cluster.shutdown()
