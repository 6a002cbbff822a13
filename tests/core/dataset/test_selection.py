"""Which clips an export takes: filters, duplicates, splits, and the reason of every clip that is left out."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from core.dataset.small_runs import write_run

from magicvideo_core.clips import Clip
from magicvideo_core.dataset.candidates import read_candidates
from magicvideo_core.dataset.export import plan_export
from magicvideo_core.dataset.request import export_request, parse_splits, split_of
from magicvideo_core.dataset.selection import select
from magicvideo_core.errors import ConfigError, RunError
from magicvideo_core.prompts import clip_of_prompt
from magicvideo_core.storage import Storage


def chosen(runs: list[Storage], **options: Any) -> Any:
    values = {"format": "webdataset", "measurements": False, **options}
    return plan_export(export_request(runs=tuple(run.uri for run in runs), **values)).selection


def reasons(selection: Any) -> dict[str, tuple[str, str | None]]:
    return {row["clip_id"]: (row["verdict"], row["reason"]) for row in selection.verdicts.to_pylist()}


def test_every_clip_has_a_verdict(small_run: Storage) -> None:
    selection = chosen([small_run], where=["seed > 2", "prompt != 'prompt 7'"])
    assert selection.counts() == {"failed": 1, "filtered": 4, "kept": 5}
    assert selection.filtered() == {"seed > 2": 3, "prompt != 'prompt 7'": 1}
    assert selection.kept["key"].to_pylist() == sorted(selection.kept["key"].to_pylist())
    bad = clip_of_prompt("bad", 9).clip_id
    assert reasons(selection)[bad] == ("failed", "GateError")


def test_the_prompt_files_own_columns_can_be_asked_for(tmp_path: Path) -> None:
    extras = [{"source": "web", "rank": 1}, {"source": "own", "rank": 2.5}, {}]
    clips = [
        Clip(f"{number:016x}", f"p{number}", seed=number, source_id=f"row-{number}", extra=extra)
        for number, extra in enumerate(extras)
    ]
    run = write_run(Storage(tmp_path / "run"), clips)
    assert chosen([run], where=["extra.source = 'web' OR extra.rank > 2"]).kept["seed"].to_pylist() == [0, 1]
    assert chosen([run], where=["source_id IN ('row-2')"]).kept["seed"].to_pylist() == [2]
    with pytest.raises(ConfigError, match=r"no column 'extra\.sauce'"):
        chosen([run], where=["extra.sauce = 'web'"])
    with pytest.raises(ConfigError, match=r"No clip is left .* filtered 3"):
        chosen([run], where=["seed < 0"])


def test_duplicates_are_left_out_and_name_what_stays(tmp_path: Path) -> None:
    twice = [clip_of_prompt("one", 1), Clip("f" * 16, "one", seed=1, source_id="again"), clip_of_prompt("two", 2)]
    bytes_of = {"two": b"same", "three": b"same"}
    run = write_run(
        Storage(tmp_path / "first"),
        [*twice, clip_of_prompt("three", 3), Clip("e" * 16, "one", seed=1, image="given.png")],
        content=lambda stage, clip: bytes_of.get(clip.prompt, clip.clip_id.encode()),
    )
    selection = chosen([run])
    assert selection.counts() == {"duplicate": 2, "kept": 3}, "another image was given: no duplicate"
    assert reasons(selection)["f" * 16] == ("duplicate", f"made as {twice[0].clip_id} was")
    assert chosen([run], dedupe="none").counts() == {"kept": 5}
    # The same clips in another run, one of them made by another recipe.
    other = write_run(
        Storage(tmp_path / "second"),
        twice,
        change=lambda stage, clip: {"recipe_hash": "other"} if clip.prompt == "two" else {},
        content=lambda stage, clip: f"second {clip.clip_id}".encode(),
    )
    both = chosen([run, other])
    assert both.counts() == {"duplicate": 4, "kept": 4}
    keys = both.kept["key"].to_pylist()
    assert len(set(keys)) == 4 and sum("-" in key for key in keys) == 2, "a clip of two runs has a key for each"
    with pytest.raises(ConfigError, match="a run id is there twice"):
        chosen([run, run])


def test_what_looks_alike_is_found_whatever_its_brightness() -> None:
    rng = np.random.default_rng(0)
    base = rng.integers(20, 230, (40, 144)).astype(np.uint8)
    near = (base[:10].astype(int) + rng.integers(-1, 2, (10, 144))).clip(0, 255).astype(np.uint8)
    thumbnails = [row.tobytes() for row in (*base, *near)]
    request = export_request(runs=("r",), format="webdataset", dedupe="near", near_distance=1.0)
    schema = read_candidates([], [], [], with_facts=True).schema
    rows = [
        {
            "run": 0,
            "clip_id": f"{number:016x}",
            "status": "succeeded",
            "seed": number,
            "thumbnails": each,
            "run_id": "r",
        }
        for number, each in enumerate([*thumbnails, None])
    ]
    selection = select(pa.Table.from_pylist(rows, schema=schema), request)
    assert selection.counts() == {"near_duplicate": 10, "kept": 41}
    assert reasons(selection)[f"{45:016x}"] == ("near_duplicate", f"looks like {5:016x}")


def test_a_split_follows_from_the_clip_alone(small_run: Storage, tmp_path: Path) -> None:
    shares = parse_splits("train=0.8, validation=0.1,test=0.1")
    names = [split_of(f"{number:016x}", shares) for number in range(4000)]
    assert [round(names.count(name) / 4000, 1) for name in shares] == [0.8, 0.1, 0.1]
    split = {row["clip_id"]: row["split"] for row in chosen([small_run], splits="train=0.5,test=0.5").kept.to_pylist()}
    fewer = chosen([small_run], splits="train=0.5,test=0.5", where=["seed < 5"]).kept.to_pylist()
    assert all(row["split"] == split[row["clip_id"]] for row in fewer) and set(split.values()) == {"train", "test"}
    clips = [clip_of_prompt("one", seed) for seed in range(8)]
    run = write_run(Storage(tmp_path / "many"), clips)
    together = chosen([run], splits="train=0.5,test=0.5", split_by="prompt").kept["split"].unique()
    assert len(together) == 1, "the seeds of one prompt do not tell the test split what was trained on"


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"splits": "train=0.5"}, "add up to 0.5 instead of 1"),
        ({"splits": "train"}, "is no split"),
        ({"splits": "train=0.5,train=0.5"}, "each name once"),
        ({"splits": "train=much"}, "is no number"),
        ({"format": "zip"}, "Invalid format 'zip' of the export"),
        ({"include": ("audio",)}, "there is no stage 'audio'"),
        ({"where": ("seed >",)}, "it ends too early"),
        ({"shard_clips": 0}, "Invalid shard_clips 0"),
        ({"runs": ()}, "Invalid runs"),
    ],
)
def test_a_wrong_request_is_one_sentence(options: dict[str, Any], what: str) -> None:
    with pytest.raises(ConfigError) as error:
        export_request(**{"runs": ("r",), "format": "webdataset", **options})
    assert what in str(error.value) and "\n" not in str(error.value)


def test_stages_that_the_run_lacks_are_refused(small_run: Storage) -> None:
    with pytest.raises(ConfigError, match="Stage vfi is what is exported"):
        chosen([small_run], include=("vfi",))
    with pytest.raises(ConfigError, match=r"No clip is left .* incomplete 9"):
        chosen([small_run], include=("i2v",))
    with pytest.raises(RunError, match="There is no run"):
        chosen([Storage(f"{small_run.uri}-absent")])
    assert json.dumps(export_request(runs=("r",), format="webdataset").same_dataset())
