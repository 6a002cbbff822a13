"""What is set before Ray is imported: a Ray of this machine that asks for the user's token is given it, no other."""

import os
import sys
from pathlib import Path

import pytest

from tasks.environment import set_environment


@pytest.mark.parametrize(
    ("address", "has_token", "mode"),
    [
        ("127.0.0.1:6379", True, "token"),
        ("ray://localhost:10001", True, "token"),
        ("127.0.0.1:6379", False, None),
        ("198.51.100.1:6379", True, None),
        ("auto", True, None),
        (None, True, None),
    ],
)
def test_a_token_goes_to_a_ray_of_this_machine_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str | None, has_token: bool, mode: str | None
) -> None:
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    for name in ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
        # Set first: what was not there is taken away again at the end, whoever has set it.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    if address is not None:
        monkeypatch.setenv("RAY_ADDRESS", address)
    token = tmp_path / "token"
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
    if has_token:
        token.write_text("of no meaning")
    set_environment()
    assert os.environ.get("RAY_AUTH_MODE") == mode
