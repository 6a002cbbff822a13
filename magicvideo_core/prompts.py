"""Clips from the rows of prompt files: typed, seeded and named, or refused in one clear sentence."""

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from magicvideo_core import ids
from magicvideo_core.clips import CLIP_SCHEMA, Clip, ClipTable, ClipTableBuilder
from magicvideo_core.errors import PromptError
from magicvideo_core.prompt_files import PromptFiles, PromptRow
from magicvideo_core.storage import is_local, local_path

COLUMNS = ("prompt", "id", "negative_prompt", "seed", "num_videos", "image", "video")
_MAX_SEED = 2**63 - 1
_MAX_NUM_VIDEOS = 10_000
_MAX_FILES = 2**32
_INTEGER = re.compile(r"-?[0-9]{1,20}")


def read_prompts(source: str | PromptFiles, *, base_seed: int = 0) -> ClipTable:
    """Return the clips of a path, URL or glob (`.txt`, `.csv`, `.jsonl`, `.parquet`), or of standard input for `-`.

    A row with `num_videos` n gives n clips. Equal rows are further replicas of one prompt: a replica beyond the first
    has a seed of its own, derived from the row's. Rows become columns as they are read: a million of them take seconds
    and some hundred megabytes. Raises PromptError in one sentence naming file, row, column, value.
    """
    clips = ClipTableBuilder()
    replicas: dict[str, int] = {}
    ids_seen = _SourceIds()
    for row in (PromptFiles(source) if isinstance(source, str) else source).rows():
        source_id = _text(row, "id")
        if source_id is not None:
            ids_seen.add(source_id, row)
        for values in _clips_of_row(row, source_id, base_seed, replicas):
            clips.add(*values)
    return clips.finish()


def clip_of_prompt(prompt: str, seed: int, negative_prompt: str = "") -> Clip:
    """Return the clip of a prompt given on its own, outside a prompt file."""
    if not prompt.strip():
        raise PromptError("The prompt is empty: say what the video should show.")
    row = PromptRow("The prompt", 0, {"prompt": prompt, "seed": seed, "negative_prompt": negative_prompt})
    values = next(_clips_of_row(row, None, 0, {}))
    return Clip.from_row(dict(zip(CLIP_SCHEMA.names, values, strict=True)))


class _SourceIds:
    """The ids of the rows so far, each with where it stood, packed into one number."""

    def __init__(self) -> None:
        self._files: dict[str, int] = {}
        self._places: dict[str, int] = {}

    def add(self, source_id: str, row: PromptRow) -> None:
        """Take in the id of a row. Raises PromptError where an earlier one has it."""
        file = self._files.setdefault(row.file, len(self._files))
        place = self._places.setdefault(source_id, row.number * _MAX_FILES + file)
        if place != row.number * _MAX_FILES + file:
            number, file = divmod(place, _MAX_FILES)
            first = PromptRow(list(self._files)[file], number, {})
            raise PromptError(
                f"{row.where}, column 'id': {source_id!r} is already the id of {first.where}; "
                "give every row an id of its own."
            )


def _clips_of_row(
    row: PromptRow, source_id: str | None, base_seed: int, replicas: dict[str, int]
) -> Iterator[tuple[Any, ...]]:
    """Give the values of `CLIP_SCHEMA` for each clip of a row; `replicas` counts those of equal rows so far.

    Equal rows are those whose first replica has the same id.
    """
    prompt = _text(row, "prompt")
    if prompt is None:
        raise PromptError(f"{row.where}, column 'prompt': the prompt is empty; write one or remove the row.")
    negative_prompt = _text(row, "negative_prompt") or ""
    row_seed = _integer(row, "seed", 0, _MAX_SEED)
    num_videos = _integer(row, "num_videos", 1, _MAX_NUM_VIDEOS)
    image, video = _media_uri(row, "image"), _media_uri(row, "video")
    if image is not None and video is not None:
        raise PromptError(f"{row.where}: 'image' and 'video' are both set; keep the one that the clip starts from.")
    extra = {name: _plain(value) for name, value in row.values.items() if name not in COLUMNS}
    extra_json = ids.canonical_json(extra) if extra else "{}"
    first_id = ""
    for _ in range(1 if num_videos is None else num_videos):
        replica = replicas.get(first_id, 0) if first_id else 0
        while True:
            if row_seed is None:
                seed = ids.default_seed(prompt, replica, base_seed)
            else:
                seed = row_seed if replica == 0 else ids.default_seed(prompt, replica, row_seed)
            clip_id = ids.clip_id(
                prompt=prompt,
                negative_prompt=negative_prompt,
                seed=seed,
                image=image,
                video=video,
                source_id=source_id,
                replica=replica,
            )
            first_id = first_id or clip_id
            # Seldom: an equal row was there before.
            if replica == replicas.get(first_id, 0):
                break
            replica = replicas[first_id]
        replicas[first_id] = replica + 1
        yield clip_id, prompt, negative_prompt, seed, image, video, source_id, extra_json


def _text(row: PromptRow, column: str) -> str | None:
    value = row.values.get(column)
    # First what is seen most, here and below: absent.
    if value is None or _is_missing(value):
        return None
    if column == "id" and isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        raise PromptError(f"{row.where}, column {column!r}: {value!r} is not text; write it as text.")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise PromptError(f"{row.where}, column {column!r}: {value!r} holds half a character; mend it.") from None
    return value.strip() or None


def _integer(row: PromptRow, column: str, low: int, high: int) -> int | None:
    value = row.values.get(column)
    if value is None:
        return None
    if isinstance(value, str):
        value = value.strip() or None
    if _is_missing(value):
        return None
    number: int | None = None
    if isinstance(value, int) and not isinstance(value, bool):
        number = value
    # A column of integers with gaps arrives as floats from Parquet.
    elif (isinstance(value, float) and value.is_integer()) or (isinstance(value, str) and _INTEGER.fullmatch(value)):
        number = int(value)
    if number is None or not low <= number <= high:
        raise PromptError(
            f"{row.where}, column {column!r}: {value!r} is not allowed; write a whole number from {low} to {high}."
        )
    return number


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _media_uri(row: PromptRow, column: str) -> str | None:
    uri = _text(row, column)
    if uri is not None and is_local(uri) and not local_path(uri).is_file():
        raise PromptError(f"{row.where}, column {column!r}: there is no file {uri!r}; correct the path.")
    return uri


def _plain(value: Any) -> Any:
    """Return a value of a further column as JSON knows it; what JSON does not know becomes text."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return str(value)
