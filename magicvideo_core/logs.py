"""Structured logs: one JSON object a line, which says what run, stage, shard, clip and attempt it is about.

Two kinds of records share the format: warnings and errors of any module, and events (`event`), the steps of a run that
a person asks for afterwards. Events go to structured handlers only, never to the terminal's text.
"""

import json
import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from logging.handlers import MemoryHandler, RotatingFileHandler
from types import MappingProxyType
from typing import Any, TextIO

from magicvideo_core.manifest.layout import log_key
from magicvideo_core.redact import RedactingFilter, redact
from magicvideo_core.storage import Storage

_events = logging.getLogger("magicvideo.events")
_events.propagate = False
_events.setLevel(logging.INFO)
_events.addHandler(logging.NullHandler())

# A log is of interest while it is fresh: one process keeps at most twice as much of a run.
_LARGEST_FILE_BYTES = 64 * 2**20
# What happens before a run may be written to waits in memory.
_BUFFERED_RECORDS = 10_000

_NO_FIELDS: Mapping[str, Any] = MappingProxyType({})
_fields: ContextVar[Mapping[str, Any]] = ContextVar("log_fields", default=_NO_FIELDS)


@contextmanager
def log_fields(**fields: Any) -> Iterator[None]:
    """Add fields to every record of this thread, or of this context, inside the `with`."""
    token = _fields.set({**_fields.get(), **fields})
    try:
        yield
    finally:
        _fields.reset(token)


def event(message: str, **fields: Any) -> None:
    """Record a step of a run: a message that is always the same, and what it was about as fields."""
    _events.info(message, extra={"fields": fields})


class JsonLines(logging.Formatter):
    """One JSON object a line: time (UTC), level, logger, message, and the fields; without credentials."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as a line; give its handler a `RedactingFilter` for message and traceback."""
        fields = {**getattr(record, "context", _fields.get()), **getattr(record, "fields", {})}
        document = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **{name: redact(value) if isinstance(value, str) else value for name, value in fields.items()},
        }
        return json.dumps(document, ensure_ascii=False, default=str)


class _JsonToStderr(logging.StreamHandler[TextIO]):
    """Its own class, to be found again."""


def structured(handler: logging.Handler) -> logging.Handler:
    """Give a handler this format, without credentials."""
    handler.setFormatter(JsonLines())
    handler.addFilter(RedactingFilter())
    return handler


def log_json_to_stderr() -> None:
    """Send warnings, errors and events of this process to stderr as JSON lines."""
    if writes_json_to_stderr():
        return
    handler = structured(_JsonToStderr(sys.stderr))
    logging.getLogger().addHandler(handler)
    _events.addHandler(handler)


def writes_json_to_stderr() -> bool:
    """Tell whether `log_json_to_stderr` was called."""
    return any(isinstance(handler, _JsonToStderr) for handler in _events.handlers)


class _LogFile(RotatingFileHandler):
    """One that asks only for its size: the stock one formats every record twice, and looks at the folder each time."""

    def shouldRollover(self, record: logging.LogRecord) -> bool:
        return self.stream is not None and self.stream.tell() >= self.maxBytes


class RunLog:
    """The log of one process about one run, as a file in the run's folder; a run on remote storage has none.

    Records wait in memory until `open`. Those of another run in the same process are left out.
    """

    def __init__(self, run_id: str) -> None:
        self._run_id = run_id
        self._buffer = MemoryHandler(_BUFFERED_RECORDS, flushLevel=logging.CRITICAL + 1, flushOnClose=False)
        self._buffer.addFilter(self._is_of_the_run)
        self._file: logging.Handler | None = None
        for logger in (logging.getLogger(), _events):
            logger.addHandler(self._buffer)

    def open(self, storage: Storage, name: str) -> None:
        """Write what waits and what follows to the run's log `name`, where the run lies on a local disk."""
        folder = storage.local_folder
        if folder is None:
            self.close()
            return
        path = folder / log_key(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = structured(_LogFile(path, maxBytes=_LARGEST_FILE_BYTES, backupCount=1))
        self._buffer.setTarget(self._file)
        self._buffer.capacity = 1
        self._buffer.flush()

    def close(self) -> None:
        """End the log; what never found a file is forgotten."""
        for logger in (logging.getLogger(), _events):
            logger.removeHandler(self._buffer)
        self._buffer.close()
        if self._file is not None:
            self._file.close()

    def _is_of_the_run(self, record: logging.LogRecord) -> bool:
        # Now, in the thread that logs: the file is written by whoever fills the buffer.
        context = {"run": self._run_id, **_fields.get()}
        record.__dict__["context"] = context
        return bool(context["run"] == self._run_id)
