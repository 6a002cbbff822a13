"""The report page and the contact sheet of a run, finished or not."""

import base64
import hashlib
import io
import json
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from large_run import build_large_run
from PIL import Image

from magicvideo_core.config import load_config
from magicvideo_core.errors import RunError
from magicvideo_core.manifest.audit import audit_run
from magicvideo_core.manifest.layout import STRIPS, strip_key
from magicvideo_core.manifest.plan import write_plan
from magicvideo_core.manifest.run_record import new_run_record, write_run_json
from magicvideo_core.prompts import clip_of_prompt
from magicvideo_core.report import contact_sheet, write_report
from magicvideo_core.report.contact_sheet import draw_contact_sheet
from magicvideo_core.storage import Storage


class _Elements(HTMLParser):
    """The start tags of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


def _listing(text: str) -> dict[str, Any]:
    """What the page's script reads."""
    match = re.search(r'<script type="application/json" id="listing">(.*?)</script>', text, re.DOTALL)
    assert match is not None
    found: dict[str, Any] = json.loads(match[1])
    return found


def test_the_page_lists_videos_strips_and_failures(rendered_run: Storage) -> None:
    page = Path(write_report(rendered_run))
    assert page == Path(rendered_run.uri) / "report" / "index.html"
    text = page.read_text(encoding="utf-8")
    listed = _listing(text)
    assert listed["status"] == ["succeeded", "succeeded", "failed"]
    assert listed["prompt"][2] == 'a <script>alert("x")</script> & a star'
    for clip_id, rest in zip(listed["id"][:2], listed["results"]["vfi"]["key"][:2], strict=True):
        assert Path(rendered_run.join(f"artifacts/vfi/{clip_id}.{rest}")).is_file()
    pictures = listed["picture"]
    assert [picture[:23] for picture in pictures] == ["data:image/webp;base64,"] * 2 + [""]
    with Image.open(io.BytesIO(base64.b64decode(pictures[0].partition(",")[2]))) as strips:
        assert strips.size == (6 * 100 - 4, 4 * 100 - 4), "a row of frames for each stage"
    assert listed["errors"] == [["t2i", "GateError", 1, "all <black>", ""]] and listed["error"] == [-1, -1, 0]
    assert listed["measures"] == {}, "nothing was measured"
    assert not rendered_run.list(STRIPS)


def test_nothing_comes_from_elsewhere_and_no_prompt_becomes_markup(rendered_run: Storage) -> None:
    text = Path(write_report(rendered_run)).read_text(encoding="utf-8")
    elements = _Elements(text)
    assert len(elements.named("script")) == 2
    assert [attributes["href"] for attributes in elements.named("link")] == ["data:,"]
    assert not re.search(r'(src|href)="(https?:)?//', text) and "url(" not in text
    assert "<script>alert" not in text and "&lt;script&gt;alert" in text and "\\u003cscript\\u003ealert" in text
    policy = next(each["content"] or "" for each in elements.named("meta") if "http-equiv" in each)
    script = re.search(r"<script>(.*?)</script>", text, re.DOTALL)
    assert script is not None
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}';" in policy, "no other script runs"


def test_strips_of_a_large_run_lie_beside_the_page_and_are_kept(tmp_path: Path) -> None:
    storage = Storage(tmp_path / "large")
    build_large_run(storage, 60, num_scenes=2)
    listed = _listing(Path(write_report(storage, most_strips=4)).read_text(encoding="utf-8"))
    strips = storage.list(STRIPS)
    assert [f"report/{picture}" for picture in listed["picture"] if picture] == [
        key for clip_id in listed["id"] for key in strips if clip_id in key
    ]
    assert len(strips) == 4 and not [key for key in audit_run(storage).extra if key.startswith("report/")]
    # What no clip has any more goes; what is there is not made again.
    storage.write(strip_key(listed["id"][0], "0" * 16), b"of an artifact that was made again")
    Path(storage.join(strips[0])).write_bytes(b"kept")
    listed = _listing(Path(write_report(storage, most_strips=6)).read_text(encoding="utf-8"))
    assert len(storage.list(STRIPS)) == 6 == sum(map(bool, listed["picture"])) and storage.read(strips[0]) == b"kept"
    # The clips that are listed may be the first ones; figures and measurements are there.
    text = Path(write_report(storage, most_clips=1)).read_text(encoding="utf-8")
    assert "spared by resuming" in text and 'class="area"' in text and 'id="forecast"' in text
    assert set(listed["measures"]) == {"sharpness", "motion", "oracle_all"}
    assert listed["seed"][1] == str(2**53 + 1), "more than a script counts exactly"
    assert Counter(listed["status"]) == {"succeeded": 55, "quarantined": 2, "pending": 3}


def test_of_a_run_too_large_to_list_the_failures_are_listed(tmp_path: Path) -> None:
    storage = Storage(tmp_path / "large")
    build_large_run(storage, 40, num_linked=0, num_scenes=1, shard_size=10)
    text = Path(write_report(storage, most_strips=0, most_clips=15)).read_text(encoding="utf-8")
    listed = _listing(text)
    # Two shards, and of the two after them the clip that stopped.
    assert Counter(listed["status"]) == {"succeeded": 19, "quarantined": 2}
    assert "21 of 40 clips are listed" in text and ">36</b>" in text, "figures are of all"


def test_a_run_that_has_only_a_plan_has_a_page(tmp_path: Path) -> None:
    storage = Storage(tmp_path / "planned")
    clips = [clip_of_prompt("a big red circle growing on a gray background", 1)]
    write_run_json(storage, new_run_record("planned", load_config("tiny"), {}, "-", [clips]))
    write_plan(storage, [clips])
    text = Path(write_report(storage)).read_text(encoding="utf-8")
    assert "Nothing computed here" in text and _listing(text)["status"] == ["pending"]
    with pytest.raises(RunError, match="no finished video"):
        contact_sheet(storage)


def test_the_contact_sheet_has_a_row_per_finished_video(rendered_run: Storage) -> None:
    data = contact_sheet(rendered_run)
    assert len(data) < 300_000
    with Image.open(io.BytesIO(data)) as sheet:
        assert sheet.format == "PNG"
        assert sheet.width > 8 * 128 and 2 * 128 < sheet.height < 3 * 160


def test_a_noisy_sheet_shrinks_until_it_fits() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    rows = [("a very long prompt " * 20, noise)] * 2
    assert len(draw_contact_sheet(rows, max_size_bytes=20_000)) <= 20_000
    with pytest.raises(ValueError, match="do not fit"):
        draw_contact_sheet(rows, max_size_bytes=100)
