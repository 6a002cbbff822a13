"""What the report of a large run costs: seconds and memory to write it, its size, and how a browser opens it; prints a table.

    python tests/bench/report.py --clips 10000 --strips 200

Building and writing are processes of their own: a process's peak memory counts that of the one that started it. Without a
browser (playwright and Chromium) the last line is missing.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from magicvideo_core.report import write_report
from magicvideo_core.storage import Storage


def build(run: Path, num_clips: int) -> None:
    """Make the run, where it is not there yet."""
    from large_run import build_large_run

    build_large_run(Storage(run), num_clips)


def write(run: Path, num_strips: int) -> None:
    """Write the report and print seconds, CPU seconds, and peak memory."""
    started_s = time.monotonic()
    write_report(Storage(run), most_strips=num_strips, strips_limit_s=float("inf"))
    used = resource.getrusage(resource.RUSAGE_SELF)
    cpu_s = used.ru_utime + used.ru_stime
    print(f"{time.monotonic() - started_s:.1f} | {cpu_s:.1f} | {used.ru_maxrss / 1024:.0f}")


def browse(page_file: Path) -> dict[str, float]:
    """Return milliseconds until the first page of clips is there, and what a search takes after that."""
    from browsers import open_browser

    with open_browser() as browser:
        page = browser.new_page()
        started_s = time.monotonic()
        page.goto(page_file.as_uri(), wait_until="commit")
        page.wait_for_selector("article.card")
        shown_s = time.monotonic()
        page.fill("input[name=q]", "take 77")
        page.wait_for_selector(".count:has-text('found')")
        return {"first page, ms": (shown_s - started_s) * 1000, "search, ms": (time.monotonic() - shown_s) * 1000}


def _inside(part: str, run: Path, options: argparse.Namespace) -> str:
    numbers = ["--clips", str(options.clips), "--strips", str(options.strips)]
    command = [sys.executable, __file__, "--inside", part, "--folder", str(run), *numbers]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def main() -> None:
    """Run the parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=10_000)
    parser.add_argument("--strips", type=int, default=200)
    parser.add_argument("--folder", help="keep the run here for the next time")
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        parts = {"build": partial(build, num_clips=options.clips), "write": partial(write, num_strips=options.strips)}
        parts[options.inside](Path(options.folder))
        return
    with tempfile.TemporaryDirectory() as made:
        run = Path(options.folder or made).absolute() / "large"
        if not run.exists():
            _inside("build", run, options)
        print(
            f"{options.clips} clips, strips of {options.strips}\n\n| report | s | s of CPU | peak MiB |\n|---|---|---|---|"
        )
        for what in ("first", "again, strips kept"):
            print(f"| {what} | {_inside('write', run, options)} |", flush=True)
        page = run / "report" / "index.html"
        print(f"\nindex.html: {page.stat().st_size / 1e6:.2f} MB")
        try:
            print(", ".join(f"{name} {value:.0f}" for name, value in browse(page).items()))
        except ImportError as error:
            print(f"no browser: {error}")


if __name__ == "__main__":
    main()
