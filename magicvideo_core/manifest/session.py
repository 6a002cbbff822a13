"""Sessions: which driver works on a run. Numbered objects, of which the highest number alone may write.

    free ──create N+1──> held ──heartbeat every 5 s──> held ──close──> ended
                          └── a newer session is found: lost, the driver stops

A newcomer takes a run over at once where the last session has ended or its process on this machine is dead, and
otherwise only after its heartbeat has stood still for `TAKEOVER_AFTER_S`.
"""

import json
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from magicvideo_core.errors import RunError, RunStoppedError, TransientError
from magicvideo_core.manifest.layout import SESSIONS, parse_session_key, session_key
from magicvideo_core.storage import Storage

logger = logging.getLogger(__name__)

HEARTBEAT_S = 5.0
TAKEOVER_AFTER_S = 30.0
_WATCH_EVERY_S = 1.0
# Where creation is not conditional, two drivers that start at once both write: this much later one has the last word.
_SETTLE_S = 2.0
# A heartbeat that cannot be stored is better sent anew than late, and must not hold up the end of a run.
_BEAT_PATIENCE_S = 5.0


@dataclass(frozen=True, slots=True)
class FoundDone:
    """What a session found succeeded at its start: (clip, stage) pairs, and the seconds that they had taken."""

    clip_stages: int = 0
    stage_s: float = 0.0
    gpu_s: float = 0.0


@dataclass(frozen=True, slots=True)
class SessionRecord:
    """The content of one session's object; `number` is the fencing epoch, times are ISO 8601 in UTC."""

    number: int
    hostname: str
    machine: str
    pid: int
    process_start: str
    token: str
    started_at: str
    heartbeat: int = 0
    ended_at: str | None = None
    found_done: FoundDone = FoundDone()

    def to_bytes(self) -> bytes:
        """Return the object's bytes."""
        return (json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n").encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> "SessionRecord | None":
        """Return the record of an object, None of a torn one; keys of a later version are ignored."""
        try:
            values: dict[str, Any] = json.loads(data)
            known = {field.name: values[field.name] for field in fields(cls) if field.name in values}
            return cls(**{**known, "found_done": FoundDone(**values.get("found_done", {}))})
        except (ValueError, TypeError, AttributeError):
            return None


class Session:
    """This process's hold on a run; made by `open_session`, kept by a heartbeat thread, given back by `close`."""

    def __init__(self, storage: Storage, record: SessionRecord, on_lost: Callable[[RunStoppedError], None]) -> None:
        self._storage = storage
        self._hasty_storage = storage.with_patience(_BEAT_PATIENCE_S)
        self._record = record
        self._on_lost = on_lost
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._lost = False
        self._thread = threading.Thread(target=self._live, name="session", daemon=True)
        self._thread.start()

    @property
    def number(self) -> int:
        """The fencing epoch, from 1."""
        return self._record.number

    def note_found_done(self, found: FoundDone) -> None:
        """Record what was succeeded before this session's own work."""
        with self._lock:
            self._record = replace(self._record, found_done=found)
            self._storage.write(session_key(self.number), self._record.to_bytes())

    def close(self) -> None:
        """Give the run back, so that the next driver need not wait; twice is fine. Raises nothing of storage's."""
        if self._closing.is_set():
            return
        self._closing.set()
        with self._lock:
            if self._lost:
                return
            self._record = replace(self._record, ended_at=_now())
            try:
                self._hasty_storage.write(session_key(self.number), self._record.to_bytes())
            except TransientError as error:
                logger.warning("the end of session %d could not be noted: %s", self.number, error)

    def _live(self) -> None:
        while not self._closing.wait(HEARTBEAT_S):
            try:
                reason = self._beat()
            except TransientError as error:
                # Nobody can take over a store that does not answer; whoever did after it is found at the next beat.
                logger.warning("the heartbeat of session %d is late: %s", self.number, error)
                continue
            if reason is not None:
                self._on_lost(RunStoppedError(reason))
                return

    def _beat(self) -> str | None:
        """Show that this session lives; returns why it has to stop instead."""
        with self._lock:
            if self._closing.is_set():
                return None
            # Where this session's own object is gone or torn it is written anew: nobody else claims the run.
            newest = max(_session_numbers(self._hasty_storage), default=self.number)
            found = _read(self._hasty_storage, newest)
            if newest > self.number or (found is not None and found.token != self._record.token):
                self._lost = True
                return f"the run {self._storage.uri} was taken over by {_whose(found)}"
            self._record = replace(self._record, heartbeat=self._record.heartbeat + 1)
            self._hasty_storage.write(session_key(self.number), self._record.to_bytes())
            return None


def open_session(storage: Storage, on_lost: Callable[[RunStoppedError], None]) -> Session:
    """Take a run for this process and return the session; waits up to `TAKEOVER_AFTER_S` where another may hold it.

    `on_lost` is called once, in the heartbeat thread, when another driver has taken the run over. Raises RunError
    where another driver works on it.
    """
    number = wait_until_free(storage) + 1
    record = _new_record(number)
    if storage.create(session_key(number), record.to_bytes()) is None:
        raise _taken(storage, _read(storage, number))
    if not storage.creates_atomically():
        time.sleep(_SETTLE_S)
        found = _read(storage, number)
        if found is None or found.token != record.token:
            raise _taken(storage, found)
    return Session(storage, record, on_lost)


def wait_until_free(storage: Storage) -> int:
    """Return the number of the last session (0: none) once nobody works on the run; writes nothing.

    Watches a heartbeat for up to `TAKEOVER_AFTER_S`. Raises RunError where it moves.
    """
    number = max(_session_numbers(storage), default=0)
    if number == 0:
        return 0
    first = _read_bytes(storage, number)
    started_s, said = time.monotonic(), False
    while True:
        data = _read_bytes(storage, number)
        record = SessionRecord.from_bytes(data)
        if record is not None and (record.ended_at is not None or _is_dead(record)):
            return number
        if data != first and record is not None:
            raise _taken(storage, record)
        if data != first:
            # Seen while it is being written: the next look says whose it is.
            first, started_s = data, time.monotonic()
        silent_s = time.monotonic() - started_s
        if silent_s > TAKEOVER_AFTER_S:
            # Nobody may have taken it in the meantime either: the next number is created conditionally.
            return number
        if silent_s > 2 * HEARTBEAT_S and not said:
            said = True
            wait_s = TAKEOVER_AFTER_S - silent_s
            logger.warning("run %s: waiting %.0f s for a sign of life of %s", storage.uri, wait_s, _whose(record))
        time.sleep(_WATCH_EVERY_S)


def read_sessions(storage: Storage) -> list[SessionRecord]:
    """Return the readable sessions of a run in their order."""
    records = (_read(storage, number) for number in sorted(_session_numbers(storage)))
    return [record for record in records if record is not None]


def _session_numbers(storage: Storage) -> list[int]:
    return [number for key in storage.list(SESSIONS) if (number := parse_session_key(key)) is not None]


def _read(storage: Storage, number: int) -> SessionRecord | None:
    return SessionRecord.from_bytes(_read_bytes(storage, number))


def _read_bytes(storage: Storage, number: int) -> bytes:
    try:
        return storage.read(session_key(number))
    except FileNotFoundError:
        return b""


def _new_record(number: int) -> SessionRecord:
    return SessionRecord(
        number=number,
        hostname=socket.gethostname(),
        machine=_machine(),
        pid=os.getpid(),
        process_start=_process_start(os.getpid()) or "",
        token=secrets.token_hex(16),
        started_at=_now(),
    )


def _taken(storage: Storage, record: SessionRecord | None) -> RunError:
    return RunError(f"Run {storage.uri} is being worked on by {_whose(record)}: wait for it or stop it.")


def _whose(record: SessionRecord | None) -> str:
    if record is None:
        return "another process"
    return f"pid {record.pid} on {record.hostname} since {record.started_at}"


def _is_dead(record: SessionRecord) -> bool:
    """Say whether the session's process is one of this machine and gone; False where that cannot be known."""
    same_machine = record.machine != "" and record.machine == _machine()
    return same_machine and _process_start(record.pid) != record.process_start


def _machine() -> str:
    """Return what tells this boot of this machine and its process ids from any other; "" where unknown."""
    # Host names repeat among containers, and process ids mean something in one namespace only.
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _process_start(pid: int) -> str | None:
    """Return when a process of this machine started, in clock ticks since its boot; None where none runs."""
    try:
        # After the name, which may hold anything: state is field 3 of proc(5), starttime field 22.
        fields_from_state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields_from_state[0] in "ZX" else fields_from_state[19]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
