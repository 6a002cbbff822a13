"""What a run shows in Prefect while it works: its progress, its stages and its failures, as artifacts of the flow run.

A few requests every 15 s, whatever the run's size. Prefect may miss any of it: the truth is in the manifests, so what
goes wrong here is logged and ends this, never the run.
"""

import json
import logging
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import copy_context
from typing import Any

from magicvideo_core.manifest.layout import report_key
from tasks.progress import STATES, ProgressBoard
from tasks.runtime import Engine

logger = logging.getLogger(__name__)

_UPDATE_EVERY_S = 15.0
_CLOSE_PATIENCE_S = 10.0
_LONGEST_MESSAGE = 200


@contextmanager
def shown_in_prefect(engine: Engine) -> Iterator[None]:
    """Keep the flow run's artifacts up to date inside the `with`; nothing outside of a flow run."""
    from prefect.runtime import flow_run

    if flow_run.id is None:
        yield
        return
    page = _Page(engine.board, engine.run.run_id, engine.run.uri, flow_run.id)
    ending = threading.Event()

    def keep_up_to_date() -> None:
        try:
            while not ending.wait(_UPDATE_EVERY_S):
                page.update()
            page.update()
        # A boundary: see above.
        except Exception as error:
            logger.warning("Prefect's artifacts of run %s end here: %s: %s", page.run_id, type(error).__name__, error)

    # Prefect's settings and the flow run live in the context.
    thread = threading.Thread(target=copy_context().run, args=(keep_up_to_date,), name="artifacts", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ending.set()
        thread.join(_CLOSE_PATIENCE_S)


class _Page:
    """The artifacts of one run, each made once and then changed; what has not changed is not sent."""

    def __init__(self, board: ProgressBoard, run_id: str, run_uri: str, flow_run_id: Any) -> None:
        self.run_id = run_id
        self._board = board
        self._run_uri = run_uri
        self._flow_run_id = flow_run_id
        self._ids: dict[str, Any] = {}
        self._sent: dict[str, Any] = {}

    def update(self) -> None:
        """Bring all artifacts up to date."""
        loads = self._board.loads()
        counts = {stage: found.to_json() for stage, found in self._board.snapshot().items()}
        total = sum(sum(each[state] for state in STATES) for each in counts.values())
        left = sum(each["pending"] + each["running"] for each in counts.values())
        where = f"Run [{self.run_id}]({self._run_uri})"
        report = f"[report]({self._run_uri}/{report_key()}) once it has ended"
        self._put("progress", "progress", 100.0 * (total - left) / max(total, 1), f"{where}: (clip, stage) pairs done.")
        rows = [
            {"stage": stage, **each, **(loads[stage].to_json() if stage in loads else {})}
            for stage, each in counts.items()
        ]
        self._put("stages", "table", json.dumps(rows), f"{where}, {report}.")
        if failures := self._board.failures():
            failed = [
                {
                    "stage": row.stage,
                    "status": row.status,
                    "error": row.error_type,
                    "message": (row.error_message or "")[:_LONGEST_MESSAGE],
                    "clip": row.clip_id,
                    "prompt": row.prompt[:_LONGEST_MESSAGE],
                    "manifests": f"[shard {row.shard_id}]({self._run_uri}/manifests/{row.stage})",
                }
                for row in failures
            ]
            self._put("failures", "table", json.dumps(failed), f"{where}: the latest clips that did not succeed.")

    def _put(self, name: str, kind: str, data: Any, description: str) -> None:
        from prefect.client.orchestration import get_client
        from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate

        if self._sent.get(name) == data:
            return
        with get_client(sync_client=True) as client:
            if name in self._ids:
                client.update_artifact(self._ids[name], ArtifactUpdate(data=data, description=description))
            else:
                new = ArtifactCreate(
                    key=f"{name}-{_slug(self.run_id)}",
                    type=kind,
                    description=description,
                    data=data,
                    flow_run_id=self._flow_run_id,
                )
                self._ids[name] = client.create_artifact(new).id
        self._sent[name] = data


def _slug(text: str) -> str:
    """Return what Prefect takes in a key: lower-case letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
