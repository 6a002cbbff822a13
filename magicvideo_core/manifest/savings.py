"""What resuming and reuse spared a run: read from its sessions and the tally of its rows."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from magicvideo_core.manifest.session import SessionRecord
from magicvideo_core.manifest.tally import Tally


@dataclass(frozen=True, slots=True)
class Savings:
    """Seconds of stage time, and of GPUs, that were not spent again.

    `num_continued` sessions found work done by earlier ones and went on from there; starting over each time would have
    cost `resumed_stage_s` more. `num_reused` (clip, stage) pairs were taken over from another run, where they had
    taken `reused_stage_s`.
    """

    num_continued: int = 0
    resumed_stage_s: float = 0.0
    resumed_gpu_s: float = 0.0
    num_reused: int = 0
    reused_stage_s: float = 0.0
    reused_gpu_s: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Return the figures as plain JSON values."""
        return {name: round(value, 3) for name, value in asdict(self).items()}


def savings(sessions: Sequence[SessionRecord], tally: Tally) -> Savings:
    """Return what the sessions of a run, in their order, and the tally made with them say.

    Sessions that did nothing saved nothing.
    """
    reused = tally.select(is_reused=True)
    continued = [
        session for number, session in enumerate(sessions) if session.found_done.clip_stages and number in tally.spans
    ]
    return Savings(
        num_continued=len(continued),
        resumed_stage_s=sum(session.found_done.stage_s for session in continued),
        resumed_gpu_s=sum(session.found_done.gpu_s for session in continued),
        num_reused=reused.num_clips,
        reused_stage_s=reused.duration_s,
        reused_gpu_s=reused.gpu_s,
    )
