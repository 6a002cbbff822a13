"""The generate flow end to end on the embedded family: real models in real actors, few steps."""

from pathlib import Path

import pytest

from flows.generate import generate
from magicvideo_core.config import load_config
from magicvideo_core.manifest.schema import MANIFEST_SCHEMA
from magicvideo_core.manifest.table import read_manifests
from magicvideo_core.media import decode_image, decode_video
from magicvideo_core.prompts import read_prompts
from magicvideo_core.sample import sample_clip
from magicvideo_core.storage import Storage, read_uri

pytestmark = [pytest.mark.usefixtures("local_ray", "prefect_api"), pytest.mark.timeout(600)]

PROMPTS = [
    "a big red circle moving right on a navy background",
    "a small striped yellow square growing on a black background",
]
FEW_STEPS = ("t2i.num_inference_steps=4", "i2v.num_inference_steps=2", "v2v.num_inference_steps=4")


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("prompts") / "prompts.txt"
    path.write_text("\n".join(PROMPTS) + "\n")
    return str(path)


def _run(prompts: str, output: Path, shard_size: int) -> dict[tuple[str, str], str]:
    """Generate, check what a finished run holds, and return the hashes by (stage, clip)."""
    summary = generate(prompts, str(output), overrides=FEW_STEPS, run_id="run", shard_size=shard_size)
    assert summary["succeeded"]
    storage = Storage(output / "run")
    rows = read_manifests(storage)
    assert [row.status for row in rows] == ["succeeded"] * (4 * len(PROMPTS))
    assert {key.split("/")[0] for key in storage.list()} >= {"run.json", "plan", "artifacts", "manifests", "report"}
    for row in rows:
        if row.stage == "vfi":
            video = decode_video(read_uri(str(row.artifact_uri)))
            assert (video.frames_THWC_u8.shape, video.fps) == ((46, 128, 128, 3), 24.0)
            assert (row.num_frames, row.width, row.height) == (46, 128, 128)
    return {(row.stage, row.clip_id): str(row.sha256) for row in rows}


def test_prompts_become_videos_and_the_same_bytes_in_other_shards(prompts: str, tmp_path: Path) -> None:
    first = _run(prompts, tmp_path / "first", shard_size=2)
    assert _run(prompts, tmp_path / "second", shard_size=1) == first
    names = [field.name for field in MANIFEST_SCHEMA]
    assert names[:5] == ["run_id", "clip_id", "shard_id", "stage", "attempt"]


def test_the_library_alone_makes_the_image_of_the_run(prompts: str, tmp_path: Path) -> None:
    """Without Prefect and Ray, the same prompt and seed; thread counts may differ, so the last bits may too."""
    config = load_config("tiny", None, (*FEW_STEPS, "stages=t2i"))
    clip = read_prompts(prompts)[0]
    alone = sample_clip(clip.prompt, config, clip.seed)["t2i"][0].astype(int)
    generate(prompts, str(tmp_path), overrides=(*FEW_STEPS, "stages=t2i"), run_id="run")
    row = next(row for row in read_manifests(Storage(tmp_path / "run")) if row.clip_id == clip.clip_id)
    assert abs(decode_image(read_uri(str(row.artifact_uri))).astype(int) - alone).max() <= 2
