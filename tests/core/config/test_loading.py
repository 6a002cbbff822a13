"""Configuration: the presets are complete, the last word wins, and every mistake is one sentence that names it."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from magicvideo_core.config import RunConfig, diff_configs, list_presets, load_config
from magicvideo_core.errors import ConfigError


def test_the_presets_have_the_sizes_of_the_design() -> None:
    assert list_presets() == ["magicvideo2", "tiny"]
    tiny, paper = load_config(), load_config("magicvideo2")
    assert tiny.preset == "tiny"
    sizes = [
        (config.t2i.height, config.i2v.height, config.i2v.num_frames, config.v2v.height) for config in (tiny, paper)
    ]
    assert sizes == [(128, 64, 16, 128), (1024, 600, 32, 1048)]
    finished = [(config.v2v.num_frames - 1) * config.vfi.interp_factor + 1 for config in (tiny, paper)]
    assert finished == [46, 94]
    assert tiny.vfi.fps == paper.vfi.fps == 24.0


def test_file_then_overrides_change_the_preset(tmp_path: Path) -> None:
    file = tmp_path / "more.toml"
    file.write_text("seed = 3\n[i2v]\nnum_inference_steps = 9\nguidance_scale = 2.0\n[i2v.pool]\nmax_actors = 2\n")
    config = load_config(
        "tiny",
        file,
        ["i2v.num_inference_steps=8", "i2v.backend=fake", "stages=t2i,i2v", "t2i.pool.resources.node_a=0.5"],
    )
    assert (config.seed, config.i2v.guidance_scale, config.i2v.pool.max_actors) == (3, 2.0, 2)
    assert (config.i2v.num_inference_steps, config.i2v.backend) == (8, "fake")
    assert config.i2v.pool.num_cpus == load_config().i2v.pool.num_cpus
    assert config.stages == ("t2i", "i2v")
    assert config.t2i.pool.resources == {"node_a": 0.5}


def test_a_fault_may_have_the_name_of_a_number() -> None:
    config = load_config(overrides=["t2i.fake.faults.bad=nan", "t2i.fake.faults.worse=kill"])
    assert config.t2i.fake.faults == {"bad": "nan", "worse": "kill"}


def test_configurations_survive_json_and_tell_what_differs() -> None:
    config = load_config()
    assert RunConfig.model_validate_json(config.model_dump_json()) == config
    other = load_config(overrides=["v2v.strength=0.25", "v2v.pool.batch_size=2"])
    assert diff_configs(config, config) == []
    assert diff_configs(config, other) == ["v2v.pool.batch_size", "v2v.strength"]
    assert config.hash() == load_config().hash() != other.hash()
    assert other.stage("v2v") is other.v2v


def test_configurations_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        load_config().t2i.height = 64


BAD_OVERRIDES = {
    "unknown key": ("i2v.num_inference_step=8", ["'i2v.num_inference_step'", "did you mean i2v.num_inference_steps"]),
    "unknown stage": ("x.y=1", ["'x'", "allowed keys", "t2i"]),
    "key of another stage": ("t2i.strength=0.5", ["'t2i.strength'", "allowed keys"]),
    "no equals sign": ("seed", ["'seed'", "key=value"]),
    "no key": ("=3", ["'=3'", "key=value"]),
    "not a number": ("i2v.num_frames=many", ["'i2v.num_frames'", "'many'", "integer"]),
    "out of range": ("v2v.strength=1.5", ["'v2v.strength'", "1.5", "less than or equal to 1"]),
    "not a multiple of 8": ("t2i.height=100", ["'t2i.height'", "100", "multiple of 8"]),
    "unknown backend": ("vfi.backend=film", ["'vfi.backend'", "'film'", "'edsc'"]),
    "unknown dtype": ("vfi.dtype=int8", ["'vfi.dtype'", "'int8'", "'float32'"]),
    "stages out of order": ("stages=i2v,t2i", ["'stages'", "i2v,t2i", "order"]),
    "stages with a gap": ("stages=t2i,vfi", ["'stages'", "neighbours"]),
    "no stages": ("stages=[]", ["'stages'", "neighbours"]),
    "a value for a table": ("t2i=3", ["'t2i'", "3"]),
    "a table for a value": ("t2i.weights.path=3", ["'t2i.weights'", "string"]),
    "fewer than the least": ("t2i.pool.min_actors=3", ["'t2i.pool'", "min_actors = 3", "max_actors = 1"]),
    "no share of a GPU": ("t2i.pool.num_gpus=0.4", ["'t2i.pool'", "num_gpus = 0.4", "1/n"]),
    "clips outlive actors": ("t2i.pool.max_clip_attempts=4", ["'t2i.pool'", "max_actor_deaths"]),
    "unknown fault": ("t2i.fake.faults.bad=melt", ["'t2i.fake.faults.bad'", "'melt'", "'kill'"]),
    "preset": ("preset=tiny", ["'preset'", "--preset"]),
    "infinite": ("t2i.guidance_scale=inf", ["'t2i.guidance_scale'", "finite"]),
}


@pytest.mark.parametrize("case", BAD_OVERRIDES)
def test_a_bad_override_is_one_sentence_that_names_it(case: str) -> None:
    override, wanted = BAD_OVERRIDES[case]
    with pytest.raises(ConfigError) as caught:
        load_config(overrides=[override])
    message = str(caught.value)
    assert "\n" not in message
    assert f"override '{override}'" in message or "Override" in message
    for word in wanted:
        assert word in message


def test_an_unknown_preset_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"'huge'.*magicvideo2, tiny"):
        load_config("huge")


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        (b"seed = ", "not valid TOML"),
        (b"# \xe4\n", "not UTF-8"),
        (b"[i2v]\nframes = 3\n", "'i2v.frames'"),
        (b"[t2i.gate]\nfinite = 3\n", "'t2i.gate.finite'"),
        (b'preset = "tiny"\n', "--preset"),
        (None, "does not exist"),
    ],
)
def test_a_bad_file_is_named_with_its_problem(tmp_path: Path, content: bytes | None, wanted: str) -> None:
    file = tmp_path / "bad.toml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load_config(config_file=file)
    assert str(file) in str(caught.value)
    assert wanted in str(caught.value)
    assert "\n" not in str(caught.value)
