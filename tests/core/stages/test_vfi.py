"""The VFI stage and interpolation of files, with a small random network."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from magicvideo_core.clips import Clip
from magicvideo_core.config import RunConfig, load_config
from magicvideo_core.errors import GateError, InputError, NonFiniteError, WeightsError
from magicvideo_core.interpolate import interpolate_file
from magicvideo_core.media import decode_image, decode_video, encode_lossless, encode_mp4, encode_png
from magicvideo_core.models.autoencoder import AutoencoderConfig
from magicvideo_core.models.interpolator import Interpolator, InterpolatorConfig, save_interpolator
from magicvideo_core.models.motion import MotionConfig
from magicvideo_core.stages.base import StageItem
from magicvideo_core.stages.scene_cuts import cut_scores
from magicvideo_core.stages.vfi import VFIStage, interpolate_frames

SMALL = InterpolatorConfig(
    motion=MotionConfig(widths=(8, 8, 8), fine=8, middle=8, coarse=8),
    gan=AutoencoderConfig(code=8, middle=8, fine=8),
)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    folder = tmp_path_factory.mktemp("vfi")
    torch.manual_seed(0)
    save_interpolator(Interpolator(SMALL), folder)
    return load_config(overrides=[f"vfi.weights={folder}", "device=cpu"])


@pytest.fixture(scope="module")
def stage(config: RunConfig) -> VFIStage:
    stage = VFIStage(config)
    stage.load("cpu")
    return stage


def clip(name: str) -> Clip:
    return Clip(clip_id=name, prompt="p", negative_prompt="", seed=1, image=None, video=None, source_id=None, extra={})


def moving_frames(count: int, height: int = 16, width: int = 24) -> np.ndarray:
    frames = np.full((count, height, width, 3), 40, dtype=np.uint8)
    for index in range(count):
        frames[index, 4:10, 2 + 2 * index : 8 + 2 * index] = (220, 40, 40)
    return frames


def test_frames_are_multiplied_and_the_given_ones_unchanged(stage: VFIStage) -> None:
    given = moving_frames(4)
    [outcome] = stage.process([StageItem(clip("a"), None, given)])
    assert (outcome.clip_id, outcome.fps, outcome.error) == ("a", 24.0, None)
    assert outcome.frames_THWC_u8 is not None
    assert outcome.frames_THWC_u8.shape == (10, 16, 24, 3)
    assert outcome.frames_THWC_u8.dtype == np.uint8
    np.testing.assert_array_equal(outcome.frames_THWC_u8[::3], given)


def test_batch_mates_do_not_matter(stage: VFIStage) -> None:
    items = [StageItem(clip("a"), None, moving_frames(3)), StageItem(clip("b"), None, moving_frames(2, 8, 9))]
    together, alone = stage.process(items), [stage.process([item])[0] for item in items]
    for one, other in zip(together, alone, strict=True):
        assert one.clip_id == other.clip_id
        np.testing.assert_array_equal(one.frames_THWC_u8, other.frames_THWC_u8)


def test_identical_neighbours_give_their_copies(stage: VFIStage) -> None:
    given = np.random.default_rng(0).integers(0, 256, (1, 16, 16, 3), dtype=np.uint8).repeat(2, axis=0)
    np.testing.assert_array_equal(np.stack(list(stage.interpolate(given, 5))), given[:1].repeat(6, axis=0))


def test_one_frame_stays_one_and_none_is_the_clips_error(stage: VFIStage) -> None:
    one, none = stage.process([StageItem(clip("a"), None, moving_frames(1)), StageItem(clip("b"))])
    assert one.frames_THWC_u8 is not None and len(one.frames_THWC_u8) == 1
    assert isinstance(none.error, GateError)
    assert none.frames_THWC_u8 is None


def test_bfloat16_stays_close(config: RunConfig) -> None:
    given = moving_frames(2)
    frames = {}
    for dtype in ("float32", "bfloat16"):
        stage = VFIStage(config.model_copy(update={"vfi": config.vfi.model_copy(update={"dtype": dtype})}))
        stage.load("cpu")
        frames[dtype] = np.stack(list(stage.interpolate(given, 3))).astype(int)
    assert np.abs(frames["float32"] - frames["bfloat16"]).max() <= 8


def test_frames_that_are_not_finite_are_refused() -> None:
    model = Interpolator(SMALL).eval()
    with torch.no_grad():
        model.gan.out.bias.fill_(float("nan"))
    with pytest.raises(NonFiniteError, match=r"interp_time 0\.333"):
        list(interpolate_frames(model, moving_frames(2), 3))


def test_a_cut_is_kept_and_fast_motion_is_none(stage: VFIStage) -> None:
    """On textures that move a fifth of the frame's height, and between two of them that have nothing in common."""
    one, other = (random_texture(seed) for seed in (1, 2))
    given = np.stack([one[:, :40], one[:, 8:48], other[:, :40], other[:, 8:48]])
    frames = np.stack(list(stage.interpolate(given, 4)))
    assert len(frames) == 13
    np.testing.assert_array_equal(frames[[5, 6]], given[[1, 1]])
    np.testing.assert_array_equal(frames[7], given[2])
    for index in (1, 2, 3, 9, 10, 11):
        assert not (frames[index] == given).all(axis=(1, 2, 3)).any()
    # The setting at its end: nothing is a cut.
    uncut = np.stack(list(interpolate_frames(stage._model, given, 4)))
    assert not (uncut[6] == given).all(axis=(1, 2, 3)).any()


def random_texture(seed: int) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (10, 12, 3), dtype=np.uint8)
    return coarse.repeat(4, axis=0).repeat(4, axis=1)


def test_a_flash_and_flat_frames_are_no_cuts_and_other_colours_are() -> None:
    def score(first: np.ndarray, second: np.ndarray) -> float:
        return float(cut_scores(*(torch.from_numpy(each).permute(2, 0, 1)[None].float() for each in (first, second))))

    texture, black = random_texture(1), np.zeros((9, 13, 3), dtype=np.uint8)
    assert score(texture // 2, texture // 2 + 100) < 0.1
    assert score(black, black) == 0
    assert score(black, black + 255) < 0.1
    assert score(black, black + np.array([200, 0, 0], dtype=np.uint8)) > 0.9
    assert score(black[:1, :2], black[:1, :2]) == 0


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 3), (7, 5), (33, 17)])
@pytest.mark.parametrize("colours", [(0, 0), (255, 255), (0, 255)])
def test_any_size_and_black_and_white_frames(
    stage: VFIStage, height: int, width: int, colours: tuple[int, int]
) -> None:
    given = np.stack([np.full((height, width, 3), colour, dtype=np.uint8) for colour in colours])
    frames = np.stack(list(stage.interpolate(given, 3)))
    assert frames.shape == (4, height, width, 3)
    np.testing.assert_array_equal(frames[::3], given)
    if colours[0] == colours[1]:
        np.testing.assert_array_equal(frames[1:3], given)


def test_pairs_taken_together_are_as_taken_alone(stage: VFIStage) -> None:
    given = moving_frames(6)
    given[3] = given[2]
    alone, together = (
        np.stack(list(interpolate_frames(stage._model, given, 3, batch_pixels=pixels))).astype(int)
        for pixels in (1, 4 * 16 * 24)
    )
    assert together.shape == (16, 16, 24, 3)
    assert np.abs(alone - together).max() <= 1
    np.testing.assert_array_equal(together[::3], given)


def test_hub_weights_are_refused(config: RunConfig) -> None:
    hub = config.model_copy(update={"vfi": config.vfi.model_copy(update={"weights": "someone/rife"})})
    with pytest.raises(WeightsError, match=r"vfi\.weights"):
        VFIStage(hub).load("cpu")


# ---- files --------------------------------------------------------------------------------------------------------


def test_a_video_file_becomes_one_of_the_rate_times_the_factor(config: RunConfig, tmp_path: Path) -> None:
    source, target = tmp_path / "in.mkv", tmp_path / "out.mkv"
    source.write_bytes(encode_lossless(moving_frames(3), 10))
    assert interpolate_file([str(source)], str(target), factor=2, config=config) == 5
    video = decode_video(target.read_bytes())
    assert video.fps == 20
    np.testing.assert_array_equal(video.frames_THWC_u8[::2], moving_frames(3))


def test_mp4_in_and_out(config: RunConfig, tmp_path: Path) -> None:
    source, target = tmp_path / "in.mp4", tmp_path / "new" / "out.mp4"
    source.write_bytes(encode_mp4(moving_frames(2), 8))
    assert interpolate_file([str(source)], str(target), factor=4, config=config) == 5
    assert len(decode_video(target.read_bytes()).frames_THWC_u8) == 5


@pytest.mark.parametrize("how", ["files", "glob", "folder"])
def test_images_become_numbered_images(config: RunConfig, tmp_path: Path, how: str) -> None:
    source, target, given = tmp_path / "in", tmp_path / "out", moving_frames(3, 13, 25)
    source.mkdir()
    for index, frame in enumerate(given):
        (source / f"frame{index}.png").write_bytes(encode_png(frame))
    inputs = {
        "files": [str(source / f"frame{index}.png") for index in range(3)],
        "glob": [str(source / "*.png")],
        "folder": [str(source)],
    }[how]
    for _ in range(2):
        assert interpolate_file(inputs, str(target), factor=3, config=config) == 7
    assert sorted(each.name for each in target.iterdir()) == [f"{index:06d}.png" for index in range(7)]
    np.testing.assert_array_equal(decode_image((target / "000003.png").read_bytes()), given[1])


def one_image(folder: Path) -> list[str]:
    (folder / "a.png").write_bytes(encode_png(moving_frames(1)[0]))
    return [str(folder / "a.png")]


def two_sizes(folder: Path) -> list[str]:
    (folder / "b.png").write_bytes(encode_png(moving_frames(1, 8, 8)[0]))
    return [*one_image(folder), str(folder / "b.png")]


def broken_video(folder: Path) -> list[str]:
    (folder / "in.mp4").write_bytes(b"not a video")
    return [str(folder / "in.mp4")]


def video_and_image(folder: Path) -> list[str]:
    return [*broken_video(folder), *one_image(folder)]


def odd_video(folder: Path) -> list[str]:
    (folder / "odd.mkv").write_bytes(encode_lossless(moving_frames(2, 9, 31), 8))
    return [str(folder / "odd.mkv")]


def own_frames(folder: Path) -> list[str]:
    (folder / "out").mkdir()
    for index, frame in enumerate(moving_frames(2)):
        (folder / "out" / f"{index:06d}.png").write_bytes(encode_png(frame))
    return [str(folder / "out")]


def long_series(folder: Path) -> list[str]:
    (folder / "out").mkdir()
    (folder / "out" / "000099.png").write_bytes(b"")
    (folder / "in.mkv").write_bytes(encode_lossless(moving_frames(2), 8))
    return [str(folder / "in.mkv")]


@pytest.mark.parametrize(
    ("inputs", "output", "factor", "message"),
    [
        (lambda folder: [str(folder / "none.mp4")], "out.mp4", 3, r"There is no .*none\.mp4"),
        (lambda folder: [str(folder / "*.png")], "out", 3, "nothing to interpolate"),
        (lambda folder: [], "out", 3, "nothing to interpolate"),
        (one_image, "out.mp4", 3, "one frame only"),
        (two_sizes, "out", 3, "differ in size"),
        (broken_video, "out.mp4", 3, "neither an image nor a video"),
        (video_and_image, "out.mp4", 3, "no image"),
        (odd_video, "out.mp4", 3, "even sizes"),
        (odd_video, "out.avi", 3, r"\.mp4 or \.mkv"),
        (odd_video, "out", 1, "factor"),
        (long_series, "out", 3, "longer series"),
        (own_frames, "out", 3, "overwrite an input"),
        (lambda folder: [str(own_frames(folder)[0])], "out/000000.png/out", 3, "cannot be written"),
    ],
)
def test_bad_input_is_one_sentence_and_writes_nothing(
    config: RunConfig,
    tmp_path: Path,
    inputs: Callable[[Path], list[str]],
    output: str,
    factor: int,
    message: str,
) -> None:
    given = inputs(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match=message) as caught:
        interpolate_file(given, str(tmp_path / output), factor=factor, config=config)
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before
