"""The flows `export` and `dataset`: the same as the command's, parameters checked, wrong ones refused, torn runs left out."""

from pathlib import Path

import pytest
from core.dataset.small_runs import write_run

from flows.cli import run_command
from flows.dataset import dataset
from flows.export import export
from magicvideo_core.errors import ConfigError
from magicvideo_core.prompts import clip_of_prompt
from magicvideo_core.storage import Storage


@pytest.mark.usefixtures("prefect_api")
def test_the_flow_gives_what_the_command_gives(tmp_path: Path) -> None:
    run = write_run(Storage(tmp_path / "run"), [clip_of_prompt(f"p{number}", number) for number in range(5)])
    by_flow, by_command = Storage(tmp_path / "flow"), Storage(tmp_path / "command")
    summary = export([run.uri], by_flow.uri, where=["seed < 4"], measurements=False)
    assert (summary["num_samples"], summary["filtered"]) == (4, {"seed < 4": 1})
    command = ["export", run.uri, "--format", "webdataset", "--to", by_command.uri, "--where", "seed < 4"]
    assert run_command([*command, "--no-measurements"]) == 0
    keys = by_flow.list()
    assert keys == by_command.list() and all(by_flow.read(key) == by_command.read(key) for key in keys)
    with pytest.raises(ConfigError, match="there is no column 'sed'"):
        export([run.uri], str(tmp_path / "other"), where=["sed < 4"], measurements=False)
    assert {"format", "where", "splits", "license"} <= set(export.parameters.properties)


@pytest.mark.usefixtures("prefect_api")
def test_a_run_whose_record_is_torn_is_left_out_and_named(tmp_path: Path) -> None:
    clips = [clip_of_prompt(f"p{number}", number) for number in range(4)]
    runs = Storage(tmp_path / "runs")
    for name, own in (("one", clips[:2]), ("two", clips[2:]), ("torn", clips)):
        write_run(Storage(runs.join(name)), own)
    runs.write("torn/run.json", runs.read("torn/run.json")[:100])
    state = dataset(runs.uri, str(tmp_path / "datasets"), finished=False, measurements=False, return_state=True)
    assert state.is_completed() and state.message is not None
    assert state.message.startswith("4 samples of 2 runs: ")
    assert f"; left out: The run record {runs.join('torn', 'run.json')} is torn" in state.message
