"""What drills do to a run: each disturbs a driver at work once and returns how many faults that was, 0 where it was over."""

import os
import signal
import time

from faults.drill import COMMAND_TIMEOUT_S, Driver, kill_process


def kill_an_actor(driver: Driver) -> int:
    """SIGKILL one of the stage actors."""
    actors = driver.actors()
    if not actors:
        return 0
    kill_process(driver.random.choice(actors))
    time.sleep(driver.random.uniform(0.2, 0.6))
    return 1


def kill_the_driver(driver: Driver) -> int:
    """SIGKILL the driver after a while."""
    time.sleep(driver.random.uniform(0.0, 2.0))
    if driver.process.poll() is not None:
        return 0
    driver.kill()
    return 1


def kill_prefect(driver: Driver) -> int:
    """SIGKILL Prefect's server under a running flow."""
    server = driver.prefect_server()
    if server is None:
        return 0
    kill_process(server)
    time.sleep(1.0)
    return 1


def interrupt(driver: Driver) -> int:
    """Send SIGTERM or SIGINT, as a scheduler or a person does."""
    time.sleep(driver.random.uniform(0.0, 1.0))
    if driver.process.poll() is not None:
        return 0
    driver.process.send_signal(driver.random.choice((signal.SIGTERM, signal.SIGINT)))
    driver.process.wait(COMMAND_TIMEOUT_S)
    return 1


def tear_writes(driver: Driver) -> int:
    """Kill the driver and cut the newest object of each kind in half, as a disk does that lost power."""
    if not kill_the_driver(driver):
        return 0
    torn = 0
    for pattern in ("artifacts/*/*", "journal/*/shard-*/*/*", "manifests/*/*", "plan/*", "journal/sessions/*"):
        paths = sorted(driver.run.glob(pattern), key=lambda path: path.stat().st_mtime)
        if paths:
            os.truncate(paths[-1], paths[-1].stat().st_size // 2)
            torn += 1
    return torn
