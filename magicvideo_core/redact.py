"""Keeps credentials out of what is written: error rows, records, log lines and messages."""

import json
import logging
import os
import re
import traceback
from collections.abc import Iterator
from typing import Any

MASK = "***"

# Words in the name of an environment variable or of an fsspec option that say that its value is a credential.
_SECRET_NAME = re.compile(
    r"(?:secret|token|password|passwd|credential|(?:api|access|account|private)_?key|\bkey\b)"
    # A file's name is no secret, and messages need it.
    r"(?!.*_(?:file|path|dir|uri|url)$)",
    re.I,
)
# Shorter values are settings like "true" that would be masked all over a message.
_MIN_SECRET_LENGTH = 8
_USERINFO = re.compile(r"(?P<scheme>[a-zA-Z][a-zA-Z0-9+.-]*://)[^/\s@'\"]+@")
_QUERY = re.compile(
    r"(?P<name>[?&](?:X-Amz-(?:Signature|Credential|Security-Token)|X-Goog-(?:Signature|Credential)|Signature|sig|"
    r"AWSAccessKeyId|GoogleAccessId|access_token|token|api_?key|password|secret)=)[^&\s'\"<>#]+",
    re.I,
)
# The environment in which credentials were looked for last, and these.
_found: tuple[dict[Any, Any], tuple[str, ...]] = ({}, ())
_HEADER = re.compile(r"(?P<name>\b(?:authorization|x-amz-security-token)\b['\"]?\s*[:=]\s*)[^\r\n]+", re.I)


def redact(text: str) -> str:
    """Return `text` with every credential masked: those of this environment, of URLs and of signed requests."""
    # The marks that the patterns need: to look for these takes a tenth, and every field of every log record comes here.
    if "://" in text:
        text = _USERINFO.sub(rf"\g<scheme>{MASK}@", text)
    if "=" in text:
        text = _QUERY.sub(rf"\g<name>{MASK}", text)
    if ":" in text or "=" in text:
        text = _HEADER.sub(rf"\g<name>{MASK}", text)
    # Longest first: one secret may be a part of another.
    for secret in _known_secrets():
        text = text.replace(secret, MASK)
    return text


class RedactingFilter(logging.Filter):
    """Masks credentials in the message and the traceback of every log record that passes a handler."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = redact(record.getMessage()), ()
        if record.exc_info and record.exc_info[0] is not None:
            trace = "".join(traceback.format_exception(*record.exc_info)).rstrip()
            # As text in the message: handlers like rich's format `exc_info` themselves, past any filter.
            record.msg += f"\n{redact(trace)}"
            record.exc_info, record.exc_text = None, None
        return True


def _known_secrets() -> tuple[str, ...]:
    """Return the credentials of this environment, the longest first."""
    global _found
    # What backs `os.environ`: comparing it takes microseconds, reading all variables a hundred times that, and every
    # log record needs the answer.
    environment = getattr(os.environ, "_data", None)
    if environment is None or environment != _found[0]:
        _found = (dict(environment or {}), tuple(sorted(set(_secrets()), key=len, reverse=True)))
    return _found[1]


def _secrets() -> Iterator[str]:
    for name, value in os.environ.items():
        if name.startswith("FSSPEC_"):
            yield from _secrets_of_fsspec(name, value)
        elif _SECRET_NAME.search(name) and len(value) >= _MIN_SECRET_LENGTH:
            yield value


def _secrets_of_fsspec(name: str, value: str) -> Iterator[str]:
    """Give the credentials of one FSSPEC_* variable: a JSON object of options, or one option by name."""
    try:
        options: Any = json.loads(value)
    except ValueError:
        options = value
    if not isinstance(options, dict):
        options = {name.rpartition("_")[2].lower(): options}
    for option, setting in options.items():
        if isinstance(setting, str) and len(setting) >= _MIN_SECRET_LENGTH and _SECRET_NAME.search(option):
            yield setting
        elif isinstance(setting, dict):
            yield from _secrets_of_fsspec(name, json.dumps(setting))
