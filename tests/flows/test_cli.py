"""The command line: wrong input answers exit code 2 and one sentence, results go to stdout, and nothing heavy loads."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from flows.cli import run_command
from magicvideo_core.errors import ConfigError, PoolExhaustedError
from magicvideo_core.storage import Storage

COMMANDS = (
    "generate",
    "plan",
    "status",
    "retry",
    "verify",
    "sample",
    "interpolate",
    "train",
    "evaluate",
    "ablate",
    "report",
)


def sets(overrides: tuple[str, ...]) -> list[str]:
    return [word for override in overrides for word in ("--set", override)]


BAD_FILES: dict[str, tuple[str, bytes | None, str]] = {
    "missing file": ("p.txt", None, "does not exist"),
    "empty file": ("p.txt", b"", "is empty"),
    "no prompt column": ("p.csv", b"text,seed\na,1\n", "no column 'prompt'"),
    "not UTF-8": ("p.txt", b"one\n\xff\xfe\n", "row 2"),
    "duplicate id": ("p.jsonl", b'{"prompt":"a","id":"x"}\n{"prompt":"b","id":"x"}\n', "'x' is already the id"),
    "empty prompt": ("p.csv", b"prompt,seed\na,1\n,2\n", "row 2, column 'prompt'"),
    "seed that is none": ("p.csv", b"prompt,seed\na,many\n", "'many'"),
    "unknown suffix": ("p.docx", b"one", "unknown suffix"),
}
BAD_OPTIONS: dict[str, tuple[list[str], str]] = {
    "unknown preset": (["--preset", "huge"], "Unknown preset 'huge'"),
    "unknown key": (["--set", "i2v.steps=8"], "Unknown key 'i2v.steps'"),
    "value out of range": (["--set", "i2v.num_inference_steps=0"], "'i2v.num_inference_steps'"),
    "no key=value": (["--set", "i2v"], "'i2v' is not of the form"),
    "missing configuration": (["--config", "no.toml"], "no.toml does not exist"),
    "shard size": (["--shard-size", "0"], "'shard_size'"),
    "stages": (["--stages", "t2i,vfi"], "neighbours"),
    "start without an image": (["--stages", "i2v,v2v"], "has no 'image'"),
    "run id": (["--run-id", "a/b"], "Run id 'a/b'"),
    "weights": (["--set", "t2i.backend=diffusers", "--set", "t2i.weights=./nowhere"], "./nowhere"),
    "unknown option": (["--sharding", "3"], "--sharding"),
}


def refused(capsys: pytest.CaptureFixture[str], output: Path, words: list[str]) -> str:
    """Run a command that must refuse; returns its sentence."""
    before = sorted(output.rglob("*"))
    assert run_command(words) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert len(printed.err.strip().splitlines()) == 1, printed.err
    assert "Traceback" not in printed.err
    assert sorted(output.rglob("*")) == before, "nothing may be written"
    return printed.err


@pytest.mark.parametrize("command", ["generate", "plan"])
@pytest.mark.parametrize("case", BAD_FILES)
def test_a_bad_prompt_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], fake_overrides: tuple[str, ...], command: str, case: str
) -> None:
    name, data, expected = BAD_FILES[case]
    if data is not None:
        (tmp_path / name).write_bytes(data)
    (tmp_path / "out").mkdir()
    words = [command, str(tmp_path / name), "--output", str(tmp_path / "out"), *sets(fake_overrides)]
    sentence = refused(capsys, tmp_path / "out", words)
    assert expected in sentence and name in sentence


@pytest.mark.parametrize("case", BAD_OPTIONS)
def test_a_bad_option(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], fake_overrides: tuple[str, ...], case: str
) -> None:
    (tmp_path / "p.txt").write_text("one\n")
    (tmp_path / "out").mkdir()
    options, expected = BAD_OPTIONS[case]
    words = ["generate", str(tmp_path / "p.txt"), "--output", str(tmp_path / "out"), *sets(fake_overrides), *options]
    assert expected in refused(capsys, tmp_path / "out", words)


def test_an_output_that_cannot_be_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], fake_overrides: tuple[str, ...]
) -> None:
    (tmp_path / "p.txt").write_text("one\n")
    (tmp_path / "file").write_text("in the way")
    words = ["generate", str(tmp_path / "p.txt"), "--output", str(tmp_path / "file"), *sets(fake_overrides)]
    assert "cannot be written" in refused(capsys, tmp_path, words)
    assert "cannot be written" in refused(capsys, tmp_path, [*words[:3], "/proc/nothing", *words[4:]])


@pytest.mark.parametrize("command", ["status", "report", "evaluate", "retry", "verify"])
def test_a_place_without_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str) -> None:
    assert "There is no run" in refused(capsys, tmp_path, [command, str(tmp_path / "run")])


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["sample", "  ", "-o", "x.mp4"], "prompt is empty"),
        (["sample", "one", "-o", "x.txt"], "give a file that ends in .mp4 or .mkv"),
        (["sample", "one", "-o", "/proc/nothing/x.mp4"], "cannot be written"),
        (["sample", "one"], "--output"),
        (["interpolate", "none.mp4", "-o", "x.mp4"], "none.mp4"),
        (["evaluate"], "either RUN_URI"),
        (["evaluate", "--write-prompts", "/proc/nothing/p.jsonl"], "cannot be written"),
        (["ablate", "--output", "out", "--only", "frozen"], "no variant 'frozen'"),
        (["ablate", "--output", "out", "--weights", "none"], "lacks t2i"),
        (["ablate", "--output", "/proc/nothing"], "cannot be written"),
        (["interpolate", "none.mp4", "-o", "x.mp4", "--factor", "1"], "factor"),
        (["frobnicate"], "frobnicate"),
    ],
)
def test_other_commands_refuse_too(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    fake_overrides: tuple[str, ...],
    words: list[str],
    expected: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert expected in refused(capsys, tmp_path, [*words, *(sets(fake_overrides) if words[0] == "sample" else [])])


def test_plan_counts_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], fake_overrides: tuple[str, ...]
) -> None:
    (tmp_path / "p.csv").write_text("prompt,num_videos\none,3\ntwo,\n")
    words = ["plan", str(tmp_path / "p.csv"), "--output", str(tmp_path / "out"), "--shard-size", "3"]
    assert run_command([*words, *sets(fake_overrides), "--set", "v2v.pool.max_actors=4", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["num_clips"], plan["num_shards"], plan["forecast"], plan["done"]) == (4, 2, None, None)
    assert (plan["stages"]["v2v"]["min_actors"], plan["stages"]["v2v"]["max_actors"]) == (1, 4)
    assert run_command([*words, *sets(fake_overrides)]) == 0
    printed = capsys.readouterr().out
    assert "4 clips in 2 shards" in printed and "There is no forecast of time, storage or cost" in printed
    timings = "t2i=1,i2v=6,v2v=18,vfi=1"
    on_gpus = [word for stage in ("t2i", "i2v", "v2v", "vfi") for word in ("--set", f"{stage}.pool.num_gpus=1")]
    priced = ["--gpus", "4", "--price-per-gpu-hour", "2.5", "--timings", timings, *on_gpus]
    assert run_command([*words, *sets(fake_overrides), *priced]) == 0
    printed = capsys.readouterr().out
    assert "cost" in printed and "v2v.pool.num_gpus=0.25" in printed and f"--timings {timings}" in printed
    assert run_command([*words, *sets(fake_overrides), "--calibrate", "1", "--json"]) == 0
    forecast = json.loads(capsys.readouterr().out)["forecast"]
    assert forecast["source"] == "measured with 1 clips in this process" and forecast["storage_bytes"] > 0
    assert [path.name for path in tmp_path.iterdir()] == ["p.csv"]


def test_sample_writes_one_video(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], fake_overrides: tuple[str, ...]
) -> None:
    assert run_command(["sample", "one", "-o", str(tmp_path / "x.mp4"), *sets(fake_overrides)]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "x.mp4")
    assert [path.name for path in tmp_path.iterdir()] == ["x.mp4"]
    still = [*sets(fake_overrides), "--set", 'stages=["t2i"]']
    assert run_command(["sample", "one", "-o", str(tmp_path / "x.png"), *still]) == 0


def test_words_that_the_embedded_weights_have_never_seen_are_named_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.resolve.recipe_hashes", lambda config: dict.fromkeys(config.stages, "0" * 16))
    (tmp_path / "p.txt").write_text("a red zebra moving left\na zebra on a piano\na red circle\n")
    assert run_command(["plan", str(tmp_path / "p.txt")]) == 0
    warnings = [line for line in capsys.readouterr().err.splitlines() if line]
    assert len(warnings) == 1
    assert "never seen: zebra, piano;" in warnings[0]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), PoolExhaustedError("The t2i pool has no live actor left.")])
def test_an_unfinished_run_says_how_to_go_on(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    fake_overrides: tuple[str, ...],
    error: BaseException,
) -> None:
    def stopped(*args: Any) -> None:
        raise error

    monkeypatch.setattr("flows.launch.run_generate", stopped)
    (tmp_path / "my prompts.txt").write_text("one\n")
    words = ["generate", str(tmp_path / "my prompts.txt"), "--output", str(tmp_path), "--run-id", "r"]
    assert run_command([*words, *sets(fake_overrides), "--shard-size", "3"]) == 3
    last_line = capsys.readouterr().err.strip().splitlines()[-1]
    assert f"continue with: magicvideo generate '{tmp_path}/my prompts.txt' --output {tmp_path} --run-id r" in last_line
    assert last_line.endswith("--shard-size 3")


@pytest.mark.usefixtures("local_ray", "prefect_api")
def test_generate_status_and_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], fake_overrides: tuple[str, ...]
) -> None:
    (tmp_path / "p.txt").write_text("one\ntwo bad\n")
    faults = ["--set", "t2i.fake.faults.bad=black", "--set", "t2i.gate.not_black=true"]
    words = ["generate", str(tmp_path / "p.txt"), "--output", str(tmp_path / "runs"), "--run-id", "r", "--json"]
    timed = ["--timings", "t2i=0.1,i2v=0.1,v2v=0.1,vfi=0.1"]
    assert run_command([*words, *sets(fake_overrides), *faults, *timed]) == 1
    printed = capsys.readouterr()
    summary = json.loads(printed.out)
    assert summary["forecast"]["wall_s"] > 0 < summary["actual"]["storage_bytes"]
    assert summary["stages"]["vfi"] == summary["stages"]["vfi"] | {"succeeded": 1, "skipped": 1, "failed": 0}
    assert "succeeded" in printed.err and "Traceback" not in printed.err
    assert run_command(["status", summary["run_uri"], "--json"]) == 0
    status = json.loads(capsys.readouterr().out)
    assert status["finished"] and status["stages"]["t2i"]["quarantined"] == 1
    assert (status["forecast"], status["actual"]) == (summary["forecast"], summary["actual"])
    assert run_command(["status", summary["run_uri"]]) == 0
    printed = capsys.readouterr().out
    assert "finished" in printed and "forecast" in printed and "actual" in printed
    assert "Forecast and what it took" in Path(summary["report_uri"]).read_text()
    assert run_command(["evaluate", summary["run_uri"], "--json"]) == 0
    assert "two bad" not in json.dumps(json.loads(capsys.readouterr().out)["samples"])
    Storage(summary["run_uri"]).delete("report/index.html")
    assert run_command(["report", summary["run_uri"]]) == 0
    assert Path(capsys.readouterr().out.strip()).read_bytes().startswith(b"<!")


def test_ablate_prints_what_the_docs_take(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], fake_overrides: tuple[str, ...]
) -> None:
    words = ["ablate", "--output", str(tmp_path / "out"), "--count", "2", "--only", "bicubic", *sets(fake_overrides)]
    assert run_command(words) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("### Ablations: 2 prompts of one object\n") and "| bicubic" not in printed.out
    assert (tmp_path / "out" / "ablations.md").read_text() == printed.out.removesuffix("\n")
    assert run_command([*words, "--json"]) == 0
    assert list(json.loads(capsys.readouterr().out)["variants"]) == ["baseline", "bicubic"]


def test_a_prefect_server_that_does_not_answer_is_named(tmp_path: Path, fake_overrides: tuple[str, ...]) -> None:
    (tmp_path / "p.txt").write_text("one\n")
    words = ["generate", str(tmp_path / "p.txt"), "--output", str(tmp_path / "out"), *sets(fake_overrides)]
    # Ray's address is a wrong one too: this is about Prefect, and it spares starting a Ray.
    environment = {**os.environ, "RAY_ADDRESS": "127.0.0.1:9", "PREFECT_API_URL": "http://127.0.0.1:9/api"}
    command = [sys.executable, "-m", "flows.cli", *words]
    found = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert found.returncode == 2, found.stderr
    assert "Traceback" not in found.stderr
    assert "PREFECT_API_URL=http://127.0.0.1:9/api does not answer" in found.stderr.splitlines()[-1]
    assert not (tmp_path / "out").exists()


def test_a_ray_cluster_that_does_not_answer_is_named() -> None:
    from tasks.ray_cluster import check_ray_answers

    for address in ("127.0.0.1:9", "ray://127.0.0.1:9"):
        with pytest.raises(ConfigError, match=f"RAY_ADDRESS={address} does not answer"):
            check_ray_answers(address)
    check_ray_answers("auto")


def test_a_ray_cluster_that_lets_nobody_join_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    from tasks.ray_cluster import connect_to_ray

    def refused(**options: Any) -> None:
        raise ConnectionError("Failed to connect")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", refused)
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    with pytest.raises(ConfigError, match=r"RAY_ADDRESS=auto answers but cannot be joined .* RAY_AUTH_MODE=token"):
        connect_to_ray(1)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_an_example(capsys: pytest.CaptureFixture[str], command: str) -> None:
    assert run_command([command, "--help"]) == 0
    assert f"Example:\n  magicvideo {command} " in capsys.readouterr().out


@pytest.mark.parametrize("module", ["flows.generate", "flows.cli", "flows.launch"])
def test_a_fresh_interpreter_loads_neither_torch_nor_ray(module: str) -> None:
    code = f"import sys, {module}; print([name for name in ('torch', 'ray', 'diffusers') if name in sys.modules])"
    environment = {**os.environ, "PREFECT_LOGGING_LEVEL": "CRITICAL"}
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert found.stdout.strip() == "[]"


BAD_TRAININGS: dict[str, tuple[list[str], str]] = {
    "no such data": (["vae", "--data", "nowhere.parquet"], "nowhere.parquet does not exist"),
    "data for the interpolator": (["vfi", "--data", "x.parquet"], "vfi takes no --data"),
    "no base": (["i2v", "--workers", "2"], "needs --base"),
    "parts that workers cannot share": (["vae", "--workers", "2", "--parts", "3"], "2 workers cannot share 3 parts"),
    "peers and workers": (["vae", "--workers", "2", "--peers", "exchange"], "--peers is for one module"),
    "a chain with an option of one": (["vae", "--chain", "--mixture", "i2v=1"], "A chain takes no --mixture"),
}


@pytest.mark.parametrize("case", BAD_TRAININGS)
def test_wrong_trainings_are_refused_in_one_sentence(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words, expected = BAD_TRAININGS[case]
    assert expected in refused(capsys, tmp_path, ["train", *words, "--output", str(tmp_path / "out")])
