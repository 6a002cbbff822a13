"""The deployment file against the flows: entry points exist, parameters are ones they take, and the forms explain each."""

import importlib
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.utilities.callables import parameter_schema

ROOT = Path(__file__).parents[2]
SPEC: dict[str, Any] = yaml.safe_load((ROOT / "deployments" / "prefect.yaml").read_text())


@pytest.mark.parametrize("deployment", SPEC["deployments"], ids=lambda deployment: str(deployment["name"]))
def test_a_deployment_fits_its_flow(deployment: dict[str, Any]) -> None:
    module, _, name = deployment["entrypoint"].rpartition(".")
    flow = getattr(importlib.import_module(module), name)
    schema = parameter_schema(flow)
    assert set(deployment.get("parameters", {})) <= set(schema.properties)
    unexplained = [name for name, field in schema.properties.items() if not field.get("description")]
    assert not unexplained, "Prefect's form would say nothing of them"
    assert deployment["work_pool"]["name"] == "magicvideo"


def test_what_uses_the_actors_goes_by_one_queue_that_lets_one_flow_in() -> None:
    queues = {each["name"]: each["work_pool"]["work_queue_name"] for each in SPEC["deployments"]}
    assert {name for name, queue in queues.items() if queue == "bulk"} == {
        "nightly",
        "retry-failed",
        "generate",
        "retry",
    }
    scheduled = [each for each in SPEC["deployments"] if each.get("schedules") or each.get("triggers")]
    assert {each["concurrency_limit"]["limit"] for each in scheduled} == {1}
