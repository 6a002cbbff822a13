"""The fault drills, short: nothing missing, doubled or different whatever dies; `make drills` runs them at length."""

from pathlib import Path

import pytest
from faults.drill import Load, undisturbed
from faults.poison import poison_run
from faults.scenarios import SCENARIOS, Setting

# Of a driver that dies its own Prefect server dies too; the others use the session's, which spares starting eight.
OWN_PREFECT = ("driver-killed", "torn-writes")
TIMES = {"actor-killed": 3, "driver-killed": 1, "torn-writes": 1, "s3-failing": 1, "s3-restarted": 1, "node-lost": 1}


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory, prefect_api: str) -> Setting:
    """Eight clips, and what an undisturbed run makes of them."""
    load = Load(tmp_path_factory.mktemp("drills"), num_clips=8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_API_URL", prefect_api)
        return Setting(load, undisturbed(load))


@pytest.mark.parametrize("name", TIMES)
def test_nothing_is_lost_doubled_or_changed(
    setting: Setting, name: str, prefect_api: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name not in OWN_PREFECT:
        monkeypatch.setenv("PREFECT_API_URL", prefect_api)
    verdict = SCENARIOS[name](setting, TIMES[name])
    assert verdict.faults >= TIMES[name], verdict
    assert verdict.holds, verdict


def test_poison_clips_are_rows_and_a_retry_runs_exactly_those(
    tmp_path: Path, prefect_api: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", prefect_api)
    verdict = poison_run(tmp_path, num_clips=12)
    assert verdict.holds, verdict.as_markdown()
