"""The report page and the contact sheet of a run, finished or not."""

import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from magicvideo_core.config import load_config
from magicvideo_core.errors import RunError
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


def test_the_page_shows_videos_strips_and_failures(rendered_run: Storage) -> None:
    page = Path(write_report(rendered_run))
    assert page == Path(rendered_run.uri) / "report" / "index.html"
    text = page.read_text(encoding="utf-8")
    elements = _Elements(text)
    videos = [attributes["src"] or "" for attributes in elements.named("video")]
    assert len(videos) == 2
    assert all((page.parent / source).is_file() for source in videos)
    strips = [attributes["src"] or "" for attributes in elements.named("img")]
    assert len(strips) == 8 and all(source.startswith("data:image/jpeg;base64,") for source in strips)
    assert "GateError" in text and "all &lt;black&gt;" in text


def test_nothing_comes_from_elsewhere_and_everything_is_escaped(rendered_run: Storage) -> None:
    text = Path(write_report(rendered_run)).read_text(encoding="utf-8")
    elements = _Elements(text)
    assert len(elements.named("script")) == 1 and elements.named("script") == [{}]
    assert not elements.named("link")
    assert not re.search(r'(src|href)="(https?:)?//', text)
    assert "<script>alert" not in text and "&lt;script&gt;alert" in text


def test_a_large_run_shows_some_clips_and_all_failures(rendered_run: Storage) -> None:
    text = Path(write_report(rendered_run, max_clips=1)).read_text(encoding="utf-8")
    assert len(_Elements(text).named("video")) == 1
    assert "The first 1 of 3" in text and "GateError" in text
    text = Path(write_report(rendered_run, most_clips=1)).read_text(encoding="utf-8")
    assert len(_Elements(text).named("video")) == 2 and "The first 2 of 3 clips" in text, "whole shards"
    write_report(rendered_run)


def test_a_run_that_has_only_a_plan_has_a_page(tmp_path: Path) -> None:
    storage = Storage(tmp_path / "planned")
    clips = [clip_of_prompt("a big red circle growing on a gray background", 1)]
    write_run_json(storage, new_run_record("planned", load_config("tiny"), {}, "-", [clips]))
    write_plan(storage, [clips])
    text = Path(write_report(storage)).read_text(encoding="utf-8")
    assert "no frames" in text and "pending" in text
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
