"""deployments/ for real, on a Prefect server, a process worker, S3 and Ray; at length: `make deployed`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from deploy import nights
from deploy.deployed import Deployed

from magicvideo_core.storage import Storage

pytestmark = [pytest.mark.alone, pytest.mark.timeout(900)]


@pytest.fixture
def site(s3: Any, tmp_path: Path, fake_overrides: tuple[str, ...], local_ray: None) -> Iterator[nights.Site]:
    """Everything that `deployments/` stands on, deployed."""
    import ray

    place = Storage(s3.uri(tmp_path.name))
    config_file = nights.write_config(tmp_path, fake_overrides)
    environment = nights.environment_of(place, config_file, tmp_path, ray.get_runtime_context().gcs_address)
    with Deployed(tmp_path, environment) as deployed:
        yield nights.Site(deployed, place, tmp_path)


def test_nights_a_failure_that_is_mended_a_cancelled_night_and_a_dataset(site: nights.Site) -> None:
    nights.schedules_and_automation(site)
    nights.first_night_by_hand(site)
    nights.second_night_with_a_failure(site)
    nights.retry_by_automation(site)
    nights.cancelled_night(site)
    nights.dataset_of_all(site, num_clips=7)
    nights.parameters_are_checked(site)
