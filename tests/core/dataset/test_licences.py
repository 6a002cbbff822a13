"""The licences of a run's weights: those of the hub by the card in its cache, else by what is known; never guessed."""

from pathlib import Path

import pytest

from magicvideo_core.config import load_config
from magicvideo_core.dataset.licences import UNKNOWN, weights_of


def licences(preset: str, *overrides: str) -> dict[str, str]:
    config = load_config(preset, overrides=list(overrides))
    return {shown: licence for stage in config.stages for _, shown, licence in weights_of(config.stage(stage))}


def test_hub_weights_have_the_licence_of_their_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    found = licences("magicvideo2")
    assert found["stable-diffusion-v1-5/stable-diffusion-v1-5@main"] == "creativeml-openrail-m"
    assert found["h94/IP-Adapter:models/image_encoder"] == "apache-2.0"
    # Its card says nothing, and so do we; what the hub's cache has decides.
    adapter = "guoyww/animatediff-motion-adapter-v1-5-3"
    assert found[adapter] == UNKNOWN
    snapshots = tmp_path / f"models--{adapter.replace('/', '--')}"
    (snapshots / "refs").mkdir(parents=True)
    (snapshots / "refs" / "main").write_text("a" * 40)
    (snapshots / "snapshots" / ("a" * 40)).mkdir(parents=True)
    (snapshots / "snapshots" / ("a" * 40) / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    assert licences("magicvideo2")[adapter] == "apache-2.0"
    assert licences("magicvideo2", "i2v.weights=some/one@main")["some/one@main"] == UNKNOWN


def test_a_folder_has_the_licence_of_its_card(tmp_path: Path) -> None:
    (tmp_path / "family").mkdir()
    (tmp_path / "family" / "README.md").write_text("---\nlicense: mit\n---\n")
    found = licences("tiny", f"t2i.weights={tmp_path / 'family'}")
    assert found["local family"] == "mit"
    assert found["the embedded family `tiny`"].startswith("this project's own")
