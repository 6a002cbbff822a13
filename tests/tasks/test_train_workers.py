"""Training in several processes: two Ray Train workers make the weights and the curve of one; a chain in its order."""

from pathlib import Path

import pytest
from safetensors.torch import load_file

from flows.train import train
from magicvideo_core.errors import ConfigError
from magicvideo_core.training.curves import read_log
from magicvideo_core.training.modules import train as train_here
from tasks.training import plan_training

TINY = Path(__file__).resolve().parents[2] / "magicvideo_core" / "weights" / "tiny"


# Ray Train starts half a dozen processes, each of which imports torch: half a minute on two free cores.
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("local_ray", "prefect_api")
def test_two_workers_give_the_loss_curve_of_one_with_the_same_global_batch(tmp_path):
    # Kinds that differ between the parts of a step: each leaves other parameters without a gradient.
    options = dict(steps=2, threads=1, parts=4, frames_per_clip=2, mixture={"i2v": 1.0, "image64": 1.0}, log_every=1)
    train_here("i2v", tmp_path / "one", base=TINY, **options)
    result = train("i2v", str(tmp_path / "two"), base=str(TINY), workers=2, options=options)
    assert result == {"i2v": str(tmp_path / "two")}
    one, two = read_log(tmp_path / "one"), read_log(tmp_path / "two")
    assert [line["step"] for line in two] == [1, 2]
    for expected, got in zip(one, two, strict=True):
        names = set(expected) - {"elapsed_s"}
        assert {name: got[name] for name in names} == pytest.approx({name: expected[name] for name in names}, rel=1e-3)
    first, second = (load_file(tmp_path / name / "checkpoint.safetensors") for name in ("one", "two"))
    assert first.keys() == second.keys()
    assert all((first[name] - second[name]).abs().max() < 1e-4 for name in first if name.startswith("model/"))
    assert not (tmp_path / "two" / "ray").exists()


def test_a_chain_trains_each_module_on_what_the_one_before_it_wrote(tmp_path):
    requests = plan_training(
        "vae", str(tmp_path), base=None, chain=True, workers=2, options={"steps": 5, "data": ["d"]}
    )
    assert [(each.module, each.output.name, each.workers, each.options.get("base")) for each in requests] == [
        ("vae", "vae", 2, None),
        ("t2i", "t2i", 2, tmp_path / "vae"),
        ("i2v", "i2v", 2, tmp_path),
        ("v2v", "v2v", 2, tmp_path / "i2v"),
        ("vfi", "vfi", 1, None),
    ]
    assert all(each.options["steps"] == 5 for each in requests)
    assert [each.options.get("data") for each in requests] == [["d"]] * 4 + [None]
    assert [each.options.get("parts") for each in requests] == [2] * 4 + [None]


@pytest.mark.usefixtures("prefect_api")
def test_the_flow_trains_one_module_in_this_process_and_goes_on(tmp_path):
    options = {"steps": 1, "threads": 1, "parts": 8}
    assert train("vae", str(tmp_path / "vae"), options=options) == {"vae": str(tmp_path / "vae")}
    train("vae", str(tmp_path / "vae"), options={**options, "steps": 2})
    assert [line["step"] for line in read_log(tmp_path / "vae")] == [1, 2]


def test_wrong_requests_name_what_to_change(tmp_path):
    def plan(module, **options):
        given = {name: options.pop(name, value) for name, value in {"chain": False, "workers": 1, "base": None}.items()}
        return plan_training(module, str(tmp_path), options=options, **given)

    with pytest.raises(ConfigError, match="2 workers cannot share 3 parts"):
        plan("vae", workers=2, parts=3)
    with pytest.raises(ConfigError, match="vfi takes no --workers"):
        plan("vfi", workers=2)
    with pytest.raises(ConfigError, match="A chain takes no --learning-rate"):
        plan("vae", chain=True, learning_rate=1e-3)
    with pytest.raises(ConfigError, match=r"batch of 64 \(image64\) cannot come in 3 equal parts"):
        train_here("v2v", tmp_path / "out", base=TINY, parts=3)
    with pytest.raises(ConfigError, match="needs 512 CPUs"):
        from tasks.train_workers import _check_room

        _check_room(512, {"CPU": 2.0})
