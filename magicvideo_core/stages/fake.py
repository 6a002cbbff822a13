"""The fake backend of every stage: valid, deterministic frames after a set time, and faults on demand."""

import os
import re
import signal
import sys
import threading
import time
from collections.abc import Sequence
from typing import NoReturn, cast

import numpy as np

from magicvideo_core.config.models import Fault, I2VConfig, RunConfig, T2IConfig, VFIConfig
from magicvideo_core.errors import GateError
from magicvideo_core.ids import stage_seed
from magicvideo_core.stages.base import Frames, Outcome, StageItem, keyframe_fps

_CHUNK_MIB = 32
_HOLD_POLL_S = 0.05
# How many times as long a clip takes while there is a `fake.slow_file`.
SLOWNESS = 10


class FakeStage:
    """Stands in for a stage where weights, time or a GPU are missing: tests, and trying out a cluster."""

    def __init__(self, name: str, config: RunConfig) -> None:
        self._name = name
        self._config = config
        self._fake = config.stage(name).fake

    def load(self, device: str) -> None:
        """Take `fake.load_sleep_s`."""
        time.sleep(self._fake.load_sleep_s)

    def process(self, batch: Sequence[StageItem]) -> list[Outcome]:
        """Return a square on a plain background per clip, both drawn from the clip's seed, moving a little."""
        return [self._process_one(item) for item in batch]

    def close(self) -> None:
        """Hold nothing, give nothing back."""

    def _process_one(self, item: StageItem) -> Outcome:
        if self._fake.trace_file:
            # One write to the end: lines of several processes do not mix.
            with open(self._fake.trace_file, "ab", buffering=0) as trace:
                trace.write(f"{self._name} {item.clip.clip_id}\n".encode())
        # Even no time at all would let others have the core first.
        if self._fake.sleep_s:
            is_slow = bool(self._fake.slow_file) and os.path.exists(self._fake.slow_file)
            time.sleep(self._fake.sleep_s * (SLOWNESS if is_slow else 1))
        while self._fake.hold_file and os.path.exists(self._fake.hold_file):
            time.sleep(_HOLD_POLL_S)
        fps = self._config.vfi.fps if self._name == "vfi" else keyframe_fps(self._config)
        match self._fault(item):
            case None:
                frames = self._frames(item)
            case "black":
                frames = np.zeros_like(self._frames(item))
            case "nan":
                # No uint8 holds it: this is what a stage gives that breaks its promise.
                frames = cast(Frames, np.full(self._frames(item).shape, np.nan, np.float32))
            case "clip_error":
                return Outcome(item.clip.clip_id, None, fps, GateError(f"fault asked for clip {item.clip.clip_id}"))
            case fault:
                frames = self._break_down(fault, item)
        return Outcome(item.clip.clip_id, frames, fps)

    def _fault(self, item: StageItem) -> Fault | None:
        words = re.findall(r"[\w-]+", item.clip.prompt)
        return next((fault for word, fault in self._fake.faults.items() if word in words), None)

    def _break_down(self, fault: Fault, item: StageItem) -> NoReturn:
        match fault:
            case "exit":
                sys.exit(1)
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "hang":
                threading.Event().wait()
            case "oom":
                _use_up_memory(self._fake.oom_limit_mib)
        raise RuntimeError(f"fault asked for clip {item.clip.clip_id}")

    def _frames(self, item: StageItem) -> Frames:
        stage = self._config.stage(self._name)
        if isinstance(stage, VFIConfig):
            assert item.frames_THWC_u8 is not None, "vfi needs the frames of the stage before it"
            num_frames = (len(item.frames_THWC_u8) - 1) * stage.interp_factor + 1
            # Nearest frame: keyframe k stays frame k * interp_factor.
            nearest = np.round(np.arange(num_frames) / stage.interp_factor).astype(int)
            return item.frames_THWC_u8[nearest]
        assert isinstance(stage, T2IConfig | I2VConfig)
        num_frames = stage.num_frames if isinstance(stage, I2VConfig) else 1
        return _moving_square(stage_seed(item.clip.seed, "fake"), num_frames, stage.height, stage.width)


def _use_up_memory(limit_mib: int) -> NoReturn:
    """Take memory, and touch it so that it counts, until there is none or the limit (0: none) is reached."""
    taken: list[np.ndarray] = []
    while not limit_mib or len(taken) * _CHUNK_MIB < limit_mib:
        taken.append(np.ones(_CHUNK_MIB * 2**20, dtype=np.uint8))
    raise MemoryError(f"fault asked for: {limit_mib} MiB are taken")


def _moving_square(seed: int, num_frames: int, height: int, width: int) -> Frames:
    """Return THWC uint8 frames that differ between seeds and between neighbouring frames."""
    generator = np.random.default_rng(seed)
    background, colour = generator.integers(32, 224, size=(2, 3), dtype=np.uint8)
    frames = np.empty((num_frames, height, width, 3), dtype=np.uint8)
    frames[:] = background
    side = max(height // 4, 1)
    for index in range(num_frames):
        left = (width - side) * index // max(num_frames - 1, 1)
        frames[index, (height - side) // 2 : (height + side) // 2, left : left + side] = colour
    return frames
