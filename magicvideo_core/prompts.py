"""Clips, and making them from the rows of prompt files: typed, seeded and named, or refused in one clear sentence."""

import json
import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from magicvideo_core import ids
from magicvideo_core.errors import PromptError
from magicvideo_core.prompt_files import PromptRow, read_rows
from magicvideo_core.storage import is_local, local_path

COLUMNS = ("prompt", "id", "negative_prompt", "seed", "num_videos", "image", "video")
_MAX_SEED = 2**63 - 1
_MAX_NUM_VIDEOS = 10_000
_INTEGER = re.compile(r"-?[0-9]{1,20}")


@dataclass(frozen=True, slots=True)
class Clip:
    """One prompt with its seed on its way to one video; `extra` holds the prompt file's other columns."""

    clip_id: str
    prompt: str
    negative_prompt: str = ""
    seed: int = 0
    image: str | None = None
    video: str | None = None
    source_id: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    def to_row(self) -> dict[str, Any]:
        """Return the clip as a row of the plan, `extra` as a JSON string."""
        return {**asdict(self), "extra": ids.canonical_json(self.extra)}

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> "Clip":
        """Return the clip of a plan row; columns that are none of the clip's are ignored."""
        values = {name: row[name] for name in cls.__slots__}
        return cls(**{**values, "extra": json.loads(row["extra"])})


def read_prompts(source: str, *, base_seed: int = 0) -> list[Clip]:
    """Return the clips of a path, URL or glob (`.txt`, `.csv`, `.jsonl`, `.parquet`), or of standard input for `-`.

    A row with `num_videos` n gives n clips. Equal rows are further replicas of one prompt: a replica beyond the first
    has a seed of its own, derived from the row's. Raises PromptError in one sentence naming file, row, column, value.
    """
    rows = read_rows(source)
    clips: list[Clip] = []
    replicas: Counter[tuple[Any, ...]] = Counter()
    seen_ids: dict[str, str] = {}
    for row in rows:
        source_id = _text(row, "id")
        if source_id is not None:
            if source_id in seen_ids:
                raise PromptError(
                    f"{row.where}, column 'id': {source_id!r} is already the id of {seen_ids[source_id]}; "
                    "give every row an id of its own."
                )
            seen_ids[source_id] = row.where
        clips.extend(_clips_of_row(row, source_id, base_seed, replicas))
    return clips


def clip_of_prompt(prompt: str, seed: int, negative_prompt: str = "") -> Clip:
    """Return the clip of a prompt given on its own, outside a prompt file."""
    if not prompt.strip():
        raise PromptError("The prompt is empty: say what the video should show.")
    row = PromptRow("The prompt", {"prompt": prompt, "seed": seed, "negative_prompt": negative_prompt})
    return _clips_of_row(row, None, 0, Counter())[0]


def _clips_of_row(
    row: PromptRow, source_id: str | None, base_seed: int, replicas: Counter[tuple[Any, ...]]
) -> list[Clip]:
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
    key = (prompt, negative_prompt, row_seed, image, video, source_id)
    clips = []
    for _ in range(1 if num_videos is None else num_videos):
        replica = replicas[key]
        replicas[key] += 1
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
        clips.append(Clip(clip_id, prompt, negative_prompt, seed, image, video, source_id, extra))
    return clips


def _text(row: PromptRow, column: str) -> str | None:
    value = row.values.get(column)
    if _is_missing(value):
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
