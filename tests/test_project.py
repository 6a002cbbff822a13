"""The project as a whole: the import contracts, what imports load, and what the wheel holds."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("flows", "magicvideo_core", "tasks")


def _loaded_by(module: str) -> set[str]:
    """Return the top-level modules that a fresh interpreter has loaded after importing one module."""
    code = f"import sys, {module}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    result = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT)
    return set(result.stdout.split())


@pytest.mark.parametrize(
    "module",
    [
        "magicvideo_core.config",
        "magicvideo_core.manifest.run_record",
        "magicvideo_core.manifest.table",
        "magicvideo_core.prompts",
        "magicvideo_core.sample",
        "magicvideo_core.stages.registry",
    ],
)
def test_the_library_loads_models_only_when_it_needs_them(module: str) -> None:
    assert not _loaded_by(module) & {"torch", "diffusers", "transformers", "prefect", "ray"}


def test_the_import_contracts_hold() -> None:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_wheel_holds_the_three_packages_whole_and_nothing_else(tmp_path: Path) -> None:
    # Built from a copy: a build leaves a folder behind that would then be part of the next one.
    files = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "pyproject.toml", *PACKAGES],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split("\0")
    for name in filter(None, files):
        if (ROOT / name).is_file():
            (tmp_path / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "source" / name).write_bytes((ROOT / name).read_bytes())
    build = "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])"
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", build, str(tmp_path)],
        cwd=tmp_path / "source",
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert {name.partition("/")[0] for name in packed} == set(PACKAGES)
    wanted = {name for name in files if name.endswith((".py", ".toml", ".safetensors")) and "/" in name}
    assert wanted <= packed
