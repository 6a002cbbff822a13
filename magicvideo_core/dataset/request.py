"""What an export is asked for: checked once, stored with the dataset, and compared when it is given again."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from itertools import accumulate
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from magicvideo_core.dataset.expressions import parse_filter
from magicvideo_core.errors import ConfigError
from magicvideo_core.ids import STAGES

Format = Literal["webdataset", "huggingface"]
Dedupe = Literal["exact", "near", "none"]
SplitBy = Literal["clip", "prompt"]
FORMATS: tuple[str, ...] = get_args(Format)
DEDUPES: tuple[str, ...] = get_args(Dedupe)
SPLITS_BY: tuple[str, ...] = get_args(SplitBy)
_SPLIT_NAME = re.compile(r"[a-z][a-z0-9_]{0,29}")


class ExportRequest(BaseModel):
    """Which clips of which runs go where, in which layout; made by `export_request`.

    `runs` are URIs. `stage` is the one whose artifact is the sample, "" for the run's last; `include` are stages whose
    artifacts come along. A clip is kept where all of `where` hold. `dedupe`: "exact" leaves out the same prompt, settings
    and seed, and the same bytes; "near" also what looks alike, up to a mean difference of `near_distance` levels (0..255)
    between thumbnails. `splits` is NAME=SHARE,...; a clip's split follows from its id alone, or from its prompt. A shard has
    at most `shard_clips` samples and `shard_mib` MiB. `measurements`: facts are measured where missing, and come along.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)

    runs: tuple[str, ...] = Field(min_length=1)
    format: Format
    stage: str = ""
    include: tuple[str, ...] = ()
    where: tuple[str, ...] = ()
    dedupe: Dedupe = "exact"
    near_distance: float = Field(default=1.0, ge=0.0, le=255.0)
    splits: str = "train=1"
    split_by: SplitBy = "clip"
    shard_clips: int = Field(default=1000, ge=1, le=10_000)
    shard_mib: int = Field(default=256, ge=1, le=4096)
    measurements: bool = True
    license: str = ""

    @field_validator("stage", "include")
    @classmethod
    def _check_stages(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        for stage in (value,) if isinstance(value, str) else value:
            if stage and stage not in STAGES:
                raise ValueError(f"there is no stage {stage!r}: choose of {', '.join(STAGES)}")
        return value

    @field_validator("include")
    @classmethod
    def _in_order(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(stage for stage in STAGES if stage in value)

    @field_validator("where")
    @classmethod
    def _check_filters(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for text in value:
            parse_filter(text)
        return value

    @field_validator("splits")
    @classmethod
    def _check_splits(cls, value: str) -> str:
        parse_splits(value)
        return value

    def same_dataset(self) -> dict[str, Any]:
        """Return what decides the dataset's bytes, beside the clips: everything but where the runs lie."""
        return self.model_dump(mode="json", exclude={"runs"})


def export_request(**values: Any) -> ExportRequest:
    """Return the request. Raises ConfigError, naming the first option that is wrong."""
    try:
        return ExportRequest(**values)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        name = ".".join(map(str, problem["loc"])) or "request"
        reason = problem["msg"].removeprefix("Value error, ")
        shown = "" if isinstance(problem["input"], Mapping) else f" {problem['input']!r}"
        raise ConfigError(
            f"Invalid {name}{shown} of the export: {reason[:1].lower()}{reason[1:].rstrip('.')}."
        ) from None


def parse_splits(text: str) -> dict[str, float]:
    """Return the share of each split by name, in their order; they add up to 1. Raises ValueError."""
    shares: dict[str, float] = {}
    for part in text.split(","):
        name, separator, share = (each.strip() for each in part.partition("="))
        if not separator or not _SPLIT_NAME.fullmatch(name) or name in (*shares, *STAGES):
            raise ValueError(
                f"{part.strip()!r} is no split: write train=0.9,test=0.1, each name once, in small letters"
            )
        try:
            shares[name] = float(share)
        except ValueError:
            raise ValueError(f"the share {share!r} of {name} is no number") from None
        if not 0 < shares[name] <= 1:
            raise ValueError(f"the share {share} of {name} must be above 0 and at most 1")
    if abs(sum(shares.values()) - 1) > 1e-6:
        raise ValueError(f"the shares add up to {sum(shares.values()):g} instead of 1")
    return shares


def split_of(identity: str, shares: Mapping[str, float]) -> str:
    """Return the split of a clip id or prompt: a hash of it, so that neither other clips nor their order matter."""
    place = int.from_bytes(hashlib.sha256(f"split/{identity}".encode()).digest()[:8], "big") / 2**64
    names = list(shares)
    return next((name for name, end in zip(names, accumulate(shares.values()), strict=True) if place < end), names[-1])
