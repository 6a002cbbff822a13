"""Prompt files: every format reads the same, and every bad input is one sentence that names it."""

import io
import json
import pickle
import sys
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from magicvideo_core.clips import Clip
from magicvideo_core.errors import PromptError
from magicvideo_core.prompts import clip_of_prompt, read_prompts

ROWS: list[dict[str, Any]] = [
    {"prompt": "a red circle", "id": "one", "seed": 5, "topic": "shapes"},
    {"prompt": "größer, a “star”", "id": "two", "seed": None, "topic": "stars"},
]


def _parquet(columns: dict[str, list[Any]]) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


FILES = {
    "csv": 'prompt,id,seed,topic\na red circle,one,5,shapes\n"größer, a “star”",two,,stars\n'.encode(),
    "jsonl": "\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS).encode(),
    "parquet": _parquet({name: [row[name] for row in ROWS] for name in ROWS[0]}),
}


def _write(folder: Path, name: str, data: bytes | str) -> str:
    path = folder / name
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return str(path)


@pytest.mark.parametrize("suffix", FILES)
def test_every_format_gives_the_same_clips(tmp_path: Path, suffix: str) -> None:
    clips = read_prompts(_write(tmp_path, f"p.{suffix}", FILES[suffix]))
    assert [clip.prompt for clip in clips] == [row["prompt"] for row in ROWS]
    assert [clip.source_id for clip in clips] == ["one", "two"]
    assert clips[0].seed == 5
    assert [clip.extra for clip in clips] == [{"topic": "shapes"}, {"topic": "stars"}]
    assert [clip.clip_id for clip in clips] == [
        clip.clip_id for clip in read_prompts(_write(tmp_path, "q.csv", FILES["csv"]))
    ]


def test_text_lines_are_prompts_and_blank_ones_are_not(tmp_path: Path) -> None:
    clips = read_prompts(_write(tmp_path, "p.TXT", "\ufeffa cat\r\n\n  a dog, running  \n"))
    assert [clip.prompt for clip in clips] == ["a cat", "a dog, running"]


def test_ids_do_not_depend_on_position(tmp_path: Path) -> None:
    one = read_prompts(_write(tmp_path, "a.txt", "a cat\na dog\na cat\n"))
    other = read_prompts(_write(tmp_path, "b.txt", "a dog\na cat\na cat\n"))
    assert {clip.clip_id: clip.seed for clip in one} == {clip.clip_id: clip.seed for clip in other}
    assert len({clip.clip_id for clip in one}) == len({clip.seed for clip in one}) == 3


def test_num_videos_makes_replicas_with_seeds_of_their_own(tmp_path: Path) -> None:
    clips = read_prompts(_write(tmp_path, "p.csv", "prompt,seed,num_videos\na cat,9,3\na dog,9,1\n"))
    assert [clip.prompt for clip in clips] == ["a cat"] * 3 + ["a dog"]
    assert clips[0].seed == clips[3].seed == 9
    assert len({clip.seed for clip in clips[:3]}) == 3
    assert len({clip.clip_id for clip in clips}) == 4


def test_the_base_seed_changes_only_seeds_that_rows_leave_open(tmp_path: Path) -> None:
    path = _write(tmp_path, "p.csv", "prompt,seed\na cat,9\na dog,\n")
    first, second = read_prompts(path), read_prompts(path, base_seed=1)
    assert first[0] == second[0]
    assert first[1].seed != second[1].seed


def test_a_glob_and_a_url_and_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _write(tmp_path, "1.txt", "a cat")
    _write(tmp_path, "2.csv", "prompt\na dog\n")
    assert [clip.prompt for clip in read_prompts(f"{tmp_path}/*")] == ["a cat", "a dog"]
    fsspec.filesystem("memory").pipe_file("/prompts/p.txt", b"a fish\n")
    assert [clip.prompt for clip in read_prompts("memory://prompts/p.txt")] == ["a fish"]
    assert [clip.prompt for clip in read_prompts("memory://prompts/*.txt")] == ["a fish"]
    for text in ("a bird\n", '{"prompt": "a bird"}\n', "id,prompt\n1,a bird\n"):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
        assert [clip.prompt for clip in read_prompts("-")] == ["a bird"]


def test_integers_may_arrive_as_floats_and_missing_values_as_nan(tmp_path: Path) -> None:
    table = {"prompt": ["a", "b"], "seed": [3.0, float("nan")], "score": [float("nan"), 0.5]}
    clips = read_prompts(_write(tmp_path, "p.parquet", _parquet(table)))
    assert clips[0].seed == 3
    assert [clip.extra["score"] for clip in clips] == [None, 0.5]


CSV, JSONL = "p.csv", "p.jsonl"
BAD: dict[str, tuple[str, bytes | str, list[str]]] = {
    "empty file": ("p.txt", "", ["p.txt", "empty"]),
    "blank file": ("p.txt", "\n  \n", ["p.txt", "empty"]),
    "header only": (CSV, "prompt,id\n", [CSV, "no rows"]),
    "no prompt column": (CSV, "text,id\na cat,1\n", [CSV, "'prompt'", "'text'"]),
    "no prompt key": (JSONL, '{"prompt": "a"}\n{"text": "b"}\n', [JSONL, "row 2", "'prompt'"]),
    "no prompt column in parquet": ("p.parquet", _parquet({"text": ["a"]}), ["p.parquet", "'prompt'"]),
    "column twice": (CSV, "prompt,prompt\na,b\n", [CSV, "'prompt'", "more than once"]),
    "not UTF-8": ("p.txt", b"a cat\nb\xe4r\n", ["p.txt", "row 2", "0xe4", "UTF-8"]),
    "duplicate id": (CSV, "prompt,id\na,x\nb,y\nc,x\n", [CSV, "row 3", "'id'", "'x'", "row 1"]),
    "empty prompt": (CSV, "prompt,id\na,1\n ,2\n", [CSV, "row 2", "'prompt'", "empty"]),
    "null prompt": (JSONL, '{"prompt": null}\n', [JSONL, "row 1", "'prompt'", "empty"]),
    "prompt is a number": (JSONL, '{"prompt": 3}\n', [JSONL, "row 1", "'prompt'", "3"]),
    "half a character": (JSONL, '{"prompt": "a \\ud800"}\n', [JSONL, "row 1", "'prompt'"]),
    "seed is a word": (CSV, "prompt,seed\na,1\nb,two\n", [CSV, "row 2", "'seed'", "'two'"]),
    "seed is negative": (CSV, "prompt,seed\na,-1\n", [CSV, "row 1", "'seed'", "-1"]),
    "seed is a fraction": (JSONL, '{"prompt": "a", "seed": 1.5}\n', [JSONL, "row 1", "'seed'", "1.5"]),
    "seed is true": (JSONL, '{"prompt": "a", "seed": true}\n', [JSONL, "row 1", "'seed'", "True"]),
    "seed is too large": (CSV, f"prompt,seed\na,{2**63}\n", [CSV, "row 1", "'seed'", str(2**63)]),
    "num_videos is zero": (CSV, "prompt,num_videos\na,0\n", [CSV, "row 1", "'num_videos'", "0"]),
    "image is missing": (CSV, "prompt,image\na,nowhere.png\n", [CSV, "row 1", "'image'", "nowhere.png"]),
    "image and video": (JSONL, '{"prompt": "a", "image": "s3://b/i.png", "video": "s3://b/v.mp4"}', ["row 1", "both"]),
    "unknown suffix": ("p.xlsx", "a cat", ["p.xlsx", ".xlsx", ".parquet"]),
    "no suffix": ("prompts", "a cat", ["prompts", ".txt"]),
    "broken parquet": ("p.parquet", b"PAR1 no more", ["p.parquet", "Parquet"]),
    "broken jsonl": (JSONL, '{"prompt": "a"}\n{"prompt": \n', [JSONL, "row 2", "JSON"]),
    "jsonl of strings": (JSONL, '"a cat"\n', [JSONL, "row 1", "object"]),
    "broken csv": (CSV, 'prompt\n"a cat\n', [CSV, "CSV"]),
    "unquoted comma": (CSV, "prompt,id\na, b,1\n", [CSV, "row 1", "3", "2"]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence_that_names_it(tmp_path: Path, case: str) -> None:
    name, data, wanted = BAD[case]
    path = _write(tmp_path, name, data)
    with pytest.raises(PromptError) as caught:
        read_prompts(path)
    message = str(caught.value)
    assert path in message
    assert "\n" not in message
    for word in wanted:
        assert word in message
    assert [entry.name for entry in tmp_path.iterdir()] == [name]


def test_files_that_are_not_there(tmp_path: Path) -> None:
    for source in (f"{tmp_path}/none.txt", f"{tmp_path}/*.txt", "memory://nowhere/p.csv"):
        with pytest.raises(PromptError, match="does not exist"):
            read_prompts(source)
    (tmp_path / "folder.txt").mkdir()
    with pytest.raises(PromptError, match="is a folder"):
        read_prompts(f"{tmp_path}/folder.txt")
    with pytest.raises(PromptError, match="cannot be read"):
        read_prompts("nosuchprotocol://bucket/p.txt")


def test_a_duplicate_id_is_found_across_files(tmp_path: Path) -> None:
    _write(tmp_path, "1.csv", "prompt,id\na,x\n")
    _write(tmp_path, "2.csv", "prompt,id\nb,x\n")
    with pytest.raises(PromptError, match=r"2\.csv, row 1.*1\.csv, row 1"):
        read_prompts(f"{tmp_path}/*.csv")


def test_clips_survive_pickling_and_the_plan() -> None:
    clip = Clip("0a", "a cat", "blur", 2**62, None, "v.mp4", "id-1", {"topic": "ä", "score": 0.5})
    assert pickle.loads(pickle.dumps(clip)) == clip
    assert Clip.from_row(clip.to_row()) == clip


def test_a_single_prompt_is_the_same_clip_as_its_file(tmp_path: Path) -> None:
    assert clip_of_prompt("a cat", 4) == read_prompts(_write(tmp_path, "p.csv", "prompt,seed\na cat,4\n"))[0]
    with pytest.raises(PromptError, match="empty"):
        clip_of_prompt("  ", 4)


def test_equal_rows_are_replicas_however_their_seed_came(tmp_path: Path) -> None:
    open_seed = read_prompts(_write(tmp_path, "a.csv", "prompt,seed\na cat,\n"))[0].seed
    clips = read_prompts(
        _write(tmp_path, "b.csv", f"prompt,seed,num_videos\na cat,,1\na cat,{open_seed},2\na dog,,1\n")
    )
    assert len({clip.clip_id for clip in clips}) == len({clip.seed for clip in clips}) == 4


def test_a_long_file_is_read_in_pieces_that_no_reader_sees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("magicvideo_core.prompt_files._PIECE_BYTES", 7)
    for suffix in ("csv", "jsonl"):
        assert len(read_prompts(_write(tmp_path, f"p.{suffix}", FILES[suffix]))) == 2
    clips = read_prompts(
        _write(tmp_path, "p.csv", '\ufeffprompt,note\r\n"a\r\nb",x\r\nlong enough a prompt,"y\nz"\r\n')
    )
    assert [(clip.prompt, clip.extra["note"]) for clip in clips] == [("a\r\nb", "x"), ("long enough a prompt", "y\nz")]
    with pytest.raises(PromptError, match=r"row 4: byte 0xff is not UTF-8"):
        read_prompts(_write(tmp_path, "q.txt", b"a first one\na second one\na third one\n\xff\n"))
