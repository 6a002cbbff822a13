"""A run with poison clips, one of each kind: the others succeed, and a retry runs exactly those."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from faults.drill import Load

from magicvideo_core.manifest.schema import ManifestRow
from magicvideo_core.manifest.table import read_manifests
from magicvideo_core.storage import Storage

# The stage in which each kind of poison works; hangs are cut short so that the drill ends, late enough
# for a busy machine's other clips.
POISON = {"raise": "t2i", "exit": "i2v", "kill": "v2v", "hang": "i2v", "nan": "v2v"}
HANG_TIMEOUT_S = 8


@dataclass(frozen=True)
class PoisonVerdict:
    """What came of a run with poison clips, and of `retry --quarantined` after it."""

    num_clips: int
    exit_code: int
    succeeded: int
    broken: tuple[ManifestRow, ...]
    retry_exit_code: int
    retried: frozenset[str]

    @property
    def holds(self) -> bool:
        """Whether all but the poison clips succeeded, those are rows with a reason, and the retry ran exactly those."""
        return (
            self.exit_code == self.retry_exit_code == 1
            and self.succeeded == self.num_clips - len(POISON)
            and len(self.broken) == len(POISON)
            and all(row.error_type and row.error_message and row.status == "quarantined" for row in self.broken)
            and {row.stage for row in self.broken} == set(POISON.values())
            and self.retried == {row.clip_id for row in self.broken}
        )

    def as_markdown(self) -> str:
        """Return the figures and one line for each broken clip."""
        lines = [
            f"poison: {self.succeeded} of {self.num_clips} clips succeeded, exit code {self.exit_code}; "
            f"`retry --quarantined` ran {len(self.retried)} clips; holds: {'yes' if self.holds else 'NO'}",
            *(
                f"- {row.prompt}: {row.status} in {row.stage}: {row.error_type}: {row.error_message}"
                for row in self.broken
            ),
        ]
        return "\n".join(lines)


def poison_run(folder: Path, num_clips: int) -> PoisonVerdict:
    """Run `num_clips` with one clip of each poison among them, then `retry --quarantined`."""
    prompts = [f"fake clip {number}" for number in range(num_clips - len(POISON))]
    for number, fault in enumerate(POISON):
        prompts.insert((number + 1) * len(prompts) // (len(POISON) + 1), f"poison-{fault}")
    faults = [f"{stage}.fake.faults.poison-{fault}={fault}" for fault, stage in POISON.items()]
    faults.append(f"{POISON['hang']}.pool.clip_timeout_s={HANG_TIMEOUT_S}")
    load = Load(folder, num_clips, sleep_s=0.0, overrides=tuple(faults))
    load.prompts.write_text("".join(f"{prompt}\n" for prompt in prompts))
    exit_code = _exit_code(load.generate(str(folder), "run"))
    first = _last_rows(folder / "run")
    retry_exit_code = _exit_code([sys.executable, "-m", "flows.cli", "retry", str(folder / "run"), "--quarantined"])
    again = [row for row in read_manifests(Storage(folder / "run")) if row.attempt > 1]
    return PoisonVerdict(
        num_clips=num_clips,
        exit_code=exit_code,
        succeeded=sum(1 for rows in first.values() if all(row.status == "succeeded" for row in rows)),
        broken=tuple(row for rows in first.values() for row in rows if row.status in ("failed", "quarantined")),
        retry_exit_code=retry_exit_code,
        retried=frozenset(row.clip_id for row in again),
    )


def _exit_code(command: list[str]) -> int:
    return subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=900).returncode


def _last_rows(run: Path) -> dict[str, list[ManifestRow]]:
    rows: dict[str, list[ManifestRow]] = {}
    for row in read_manifests(Storage(run)):
        rows.setdefault(row.clip_id, []).append(row)
    return rows
