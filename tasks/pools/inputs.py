"""What a clip needs before its stage can compute it: fetched from storage, checked against its row, and decoded."""

import hashlib
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from magicvideo_core.errors import StorageUnavailableError, UpstreamLostError
from magicvideo_core.ids import READS
from magicvideo_core.media import decode_image, decode_video
from magicvideo_core.stages.base import Outcome, StageItem, keyframe_fps
from magicvideo_core.stages.given import given_frames, is_given
from magicvideo_core.storage import read_uri

if TYPE_CHECKING:
    from tasks.pools.clip_work import ClipWork, StageJob


@dataclass(frozen=True)
class Read:
    """The inputs of one clip, or its outcome where the prompt brings that along; `seconds` that reading took."""

    inputs: StageItem | Outcome
    seconds: float


class ReadAhead:
    """What an actor has read, or is reading, of clips that it does not compute yet. Thread-safe."""

    def __init__(self, read: "Callable[[ClipWork], Read]") -> None:
        self._read = read
        self._lock = threading.Lock()
        self._reads: dict[str, tuple[ClipWork, Future[Read]]] = {}

    def read(self, work: "ClipWork") -> None:
        """Read a clip's inputs now. What goes wrong is kept: whoever takes them reads again."""
        future: Future[Read] = Future()
        with self._lock:
            # The one before may be about to be taken. What is older did not come here.
            self._reads = dict([*list(self._reads.items())[-1:], (work.clip.clip_id, (work, future))])
        try:
            future.set_result(self._read(work))
        except Exception as error:
            future.set_exception(error)

    def take(self, works: "Sequence[ClipWork]") -> "dict[str, Future[Read]]":
        """Return what there is of these clips, by clip id, and let go of it."""
        with self._lock:
            found = {work.clip.clip_id: self._reads.pop(work.clip.clip_id, None) for work in works}
        # The same clip may have other inputs by now.
        return {
            work.clip.clip_id: pair[1]
            for work in works
            if (pair := found[work.clip.clip_id]) is not None and pair[0] == work
        }


def may_read_ahead(stage: str, work: "ClipWork") -> bool:
    """Tell whether a clip's inputs may be read while another one computes.

    Only what this project has stored: a file from elsewhere may end the process that decodes it, and the clip that
    computes would be blamed.
    """
    return bool(READS[stage]) and work.upstream.keys() >= set(READS[stage]) and not is_given(work.clip, stage)


def read_inputs(job: "StageJob", work: "ClipWork") -> StageItem | Outcome:
    """Fetch and decode what the stage reads: the reference image for i2v and v2v, frames for v2v and vfi.

    Raises UpstreamLostError, StorageUnavailableError or MediaError.
    """
    clip, stage = work.clip, job.stage
    if is_given(clip, stage):
        return Outcome(clip.clip_id, given_frames(clip, stage, job.config), keyframe_fps(job.config))
    reference, frames = None, None
    if stage in ("i2v", "v2v"):
        if "t2i" in work.upstream:
            reference = decode_image(_read_upstream(work, "t2i"))
        else:
            reference = given_frames(clip, "t2i", job.config)[0]
    if stage in ("v2v", "vfi"):
        before = "i2v" if stage == "v2v" else "v2v"
        if before in work.upstream:
            frames = decode_video(_read_upstream(work, before)).frames_THWC_u8
        else:
            frames = given_frames(clip, before, job.config)
    return StageItem(clip=clip, reference_image_HWC_u8=reference, frames_THWC_u8=frames)


def _read_upstream(work: "ClipWork", stage: str) -> bytes:
    """Return what an earlier stage made, checked against its row. Raises UpstreamLostError where it is not that."""
    expected = work.upstream[stage]
    what = f"Clip {work.clip.clip_id}: the {stage} artifact {expected.uri}"
    try:
        with storage_trouble(f"read {expected.uri}", FileNotFoundError):
            data = read_uri(expected.uri)
    except FileNotFoundError:
        raise UpstreamLostError(f"{what} is gone", stage) from None
    if len(data) != expected.size_bytes:
        raise UpstreamLostError(f"{what} has {len(data)} bytes instead of {expected.size_bytes}", stage)
    if hashlib.sha256(data).hexdigest() != expected.sha256:
        raise UpstreamLostError(f"{what} has other bytes than its row says (sha256)", stage)
    return data


@contextmanager
def storage_trouble(what: str, *passed_on: type[OSError]) -> Iterator[None]:
    """Give every OSError of a storage call the class that puts no blame on the clip, credentials that ended included."""
    try:
        yield
    except passed_on:
        raise
    except OSError as error:
        raise StorageUnavailableError(f"Could not {what}: {type(error).__name__}: {error}") from error
