"""Credentials are masked wherever they may stand in a text, and nothing else is."""

import json
import logging

import pytest

from magicvideo_core.redact import RedactingFilter, redact


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials as a machine that runs this has them."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI/K7MDENG")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "FwoGZXIvYXdzEBY")
    monkeypatch.setenv("MY_STORE_PASSWORD", "hunter22")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", "/var/run/token")
    monkeypatch.setenv(
        "FSSPEC_S3", json.dumps({"key": "AKIAEXAMPLE", "secret": "in-fsspec-1", "endpoint_url": "http://s3"})
    )
    monkeypatch.setenv("FSSPEC_GS_TOKEN", "in-fsspec-2")


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("key wJalrXUtnFEMI/K7MDENG was refused", "key *** was refused"),
        ("FwoGZXIvYXdzEBY, hunter22", "***, ***"),
        ("AKIAEXAMPLE in-fsspec-1 in-fsspec-2 at http://s3", "*** *** *** at http://s3"),
        ("s3://me:pw@bucket/a@b.png", "s3://***@bucket/a@b.png"),
        (
            "https://b/k?X-Amz-Signature=ab12&X-Amz-Expires=60&X-Amz-Credential=AK/2026 gone",
            "https://b/k?X-Amz-Signature=***&X-Amz-Expires=60&X-Amz-Credential=*** gone",
        ),
        ("Authorization: AWS4-HMAC-SHA256 Credential=AK\nnext", "Authorization: ***\nnext"),
        ("/var/run/token, s3://bucket/key.png, a@b", "/var/run/token, s3://bucket/key.png, a@b"),
    ],
)
def test_credentials_are_masked_and_nothing_else(text: str, masked: str) -> None:
    assert redact(text) == masked


def test_log_records_are_masked_with_their_traceback(caplog: pytest.LogCaptureFixture) -> None:
    caplog.handler.addFilter(RedactingFilter())
    try:
        raise OSError("hunter22")
    except OSError:
        logging.getLogger("magicvideo_core").exception("login with %s failed", "hunter22")
    assert "hunter22" not in caplog.text
    assert "login with *** failed" in caplog.text and "OSError: ***" in caplog.text
