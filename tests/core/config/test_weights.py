"""Weights references: what they name, and digests that follow the contents."""

from pathlib import Path

import pytest

from magicvideo_core.config import RunConfig, load_config
from magicvideo_core.config.weights import EMBEDDED_FOLDER, WeightsReference, folder_digest, resolve_weights
from magicvideo_core.errors import WeightsError
from magicvideo_core.stages.registry import recipe_hashes, weights_digest


def test_references_name_a_hub_repository_a_path_or_the_embedded_family(tmp_path: Path) -> None:
    assert resolve_weights("owner/name", "t2i", revision="abc") == WeightsReference(hub_id="owner/name", revision="abc")
    found = resolve_weights("h94/IP-Adapter@v1:models/image_encoder", "i2v", revision="abc")
    assert found == WeightsReference(hub_id="h94/IP-Adapter", revision="v1", subpath="models/image_encoder")
    assert resolve_weights(str(tmp_path), "i2v") == WeightsReference(path=tmp_path)
    with pytest.raises(WeightsError, match=r"'\./nowhere'.*i2v"):
        resolve_weights("./nowhere", "i2v")
    with pytest.raises(WeightsError, match="no_such_part"):
        resolve_weights("tiny", "t2i", "no_such_part")
    assert EMBEDDED_FOLDER.name == "tiny"


def test_a_digest_follows_names_and_contents_but_not_the_model_card(tmp_path: Path) -> None:
    (tmp_path / "unet").mkdir()
    weights = tmp_path / "unet" / "model.safetensors"
    weights.write_bytes(b"one")
    first = folder_digest(tmp_path)
    (tmp_path / "README.md").write_text("a model card")
    assert folder_digest(tmp_path) == first
    weights.write_bytes(b"other")
    assert folder_digest(tmp_path) != first
    weights.write_bytes(b"one")
    weights.rename(tmp_path / "unet" / "renamed.safetensors")
    assert folder_digest(tmp_path) != first
    weights.parent.joinpath("renamed.safetensors").unlink()
    with pytest.raises(WeightsError, match="empty"):
        folder_digest(tmp_path)


def _local_config(folder: Path, *overrides: str) -> RunConfig:
    names = ["t2i.weights", "vfi.weights"] + [
        f"{stage}.{name}"
        for stage in ("i2v", "v2v")
        for name in ("weights", "motion_adapter", "controlnet", "ip_adapter", "image_encoder")
    ]
    return load_config(overrides=[*(f"{name}={folder}" for name in names), *overrides])


def test_recipes_change_with_what_decides_the_bytes_and_with_nothing_else(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(b"same")
    base = recipe_hashes(_local_config(tmp_path / "a"))
    assert list(base) == ["t2i", "i2v", "v2v", "vfi"]
    assert recipe_hashes(_local_config(tmp_path / "b")) == base
    assert recipe_hashes(_local_config(tmp_path / "a", "t2i.pool.max_actors=2", "shard_size=1")) == base
    changed = recipe_hashes(_local_config(tmp_path / "a", "v2v.strength=0.3"))
    assert [stage for stage in base if base[stage] != changed[stage]] == ["v2v", "vfi"]
    (tmp_path / "b" / "model.safetensors").write_bytes(b"other")
    changed = recipe_hashes(_local_config(tmp_path / "a", f"i2v.motion_adapter={tmp_path / 'b'}"))
    assert [stage for stage in base if base[stage] != changed[stage]] == ["i2v", "v2v", "vfi"]


def test_hub_weights_count_by_id_and_revision() -> None:
    assert weights_digest("t2i", load_config("magicvideo2")) == "stabilityai/stable-diffusion-xl-base-1.0@main"
    assert weights_digest("t2i", load_config("magicvideo2", overrides=["t2i.revision=abc"])).endswith("@abc")
    assert weights_digest("t2i", load_config(overrides=["t2i.backend=fake"])) == "fake"
