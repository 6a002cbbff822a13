"""The gate: each setting lets valid frames pass, refuses what it is for, and can be turned off."""

import numpy as np
import pytest

from magicvideo_core.config import load_config
from magicvideo_core.errors import GateError
from magicvideo_core.media import encode_lossless, encode_mp4, encode_png
from magicvideo_core.stages import gate

CONFIG = load_config(overrides=["i2v.gate.not_black=true", "i2v.gate.not_frozen=true"])


def _frames(num_frames: int = 16, size: int = 64) -> np.ndarray:
    frames = np.full((num_frames, size, size, 3), 60, dtype=np.uint8)
    for index in range(num_frames):
        frames[index, :8, 2 * index : 2 * index + 8] = 200
    return frames


def test_valid_frames_pass_every_stage() -> None:
    gate.check(_frames(1, 128), CONFIG.t2i)
    gate.check(_frames(), CONFIG.i2v)
    gate.check(_frames(16, 128), CONFIG.v2v)
    gate.check(_frames(46, 128), CONFIG.vfi, num_input_frames=16)


NOT_FINITE = _frames().astype(np.float32)
NOT_FINITE[3, 0, 0, 0] = np.nan
BAD = {
    "finite": NOT_FINITE,
    "num_frames": _frames(15),
    "size": _frames(16, 72),
    "not_black": np.ones((16, 64, 64, 3), dtype=np.uint8) * np.arange(16, dtype=np.uint8)[:, None, None, None] // 6,
    "not_frozen": np.repeat(_frames(1), 16, axis=0),
}


@pytest.mark.parametrize("setting", BAD)
def test_each_setting_refuses_what_it_is_for_and_can_be_off(setting: str) -> None:
    with pytest.raises(GateError, match=rf"gate\.{setting}"):
        gate.check(BAD[setting], CONFIG.i2v)
    off = load_config(overrides=["i2v.gate.not_black=true", "i2v.gate.not_frozen=true", f"i2v.gate.{setting}=false"])
    gate.check(BAD[setting], off.i2v)


@pytest.mark.parametrize("index", [1, 8, 15])
def test_one_frame_that_differs_is_enough_not_to_be_frozen(index: int) -> None:
    frames = BAD["not_frozen"].copy()
    frames[index] = _frames()[index]
    gate.check(frames, CONFIG.i2v)


def test_an_interpolated_video_has_the_frames_its_input_asks_for() -> None:
    with pytest.raises(GateError, match="45 frames instead of 46"):
        gate.check(_frames(45, 128), CONFIG.vfi, num_input_frames=16)


@pytest.mark.parametrize("stage", ["t2i", "i2v", "vfi"])
def test_what_is_stored_decodes_to_its_shape(stage: str) -> None:
    encoders = {"t2i": lambda frames: encode_png(frames[0]), "i2v": lambda frames: encode_lossless(frames, 8.0)}
    frames = _frames(1 if stage == "t2i" else 16)
    data = encoders.get(stage, lambda frames: encode_mp4(frames, 24.0))(frames)
    gate.check_stored(data, frames.shape, CONFIG.stage(stage))
    for broken in (b"", data[: len(data) // 3], b"\0" * len(data)):
        with pytest.raises(GateError, match=r"gate\.decodable"):
            gate.check_stored(broken, frames.shape, CONFIG.stage(stage))
    with pytest.raises(GateError, match="instead of"):
        gate.check_stored(data, (frames.shape[0] + 1, *frames.shape[1:]), CONFIG.stage(stage))
    gate.check_stored(b"", frames.shape, load_config(overrides=[f"{stage}.gate.decodable=false"]).stage(stage))


def test_stillness_and_black_may_be_meant_in_tiny() -> None:
    gate.check(np.zeros((16, 64, 64, 3), dtype=np.uint8), load_config().i2v)


@pytest.mark.parametrize("shape", [(64, 64, 3), (16, 64, 64), (16, 3, 64, 64)])
def test_anything_but_thwc_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(GateError, match="shape"):
        gate.check(np.zeros(shape, dtype=np.uint8), CONFIG.i2v)
