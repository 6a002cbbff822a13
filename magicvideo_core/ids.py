"""Identity and randomness: ids, seeds and recipe hashes, all of them pure functions of what defines them."""

import hashlib
import json
import secrets
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from itertools import islice
from json.encoder import encode_basestring
from typing import Any

STAGES = ("t2i", "i2v", "v2v", "vfi")
# The earlier stages whose artifacts a stage reads, where the run has them; each must have succeeded.
READS: Mapping[str, tuple[str, ...]] = {"t2i": (), "i2v": ("t2i",), "v2v": ("t2i", "i2v"), "vfi": ("v2v",)}

_ID_HEX_DIGITS = 16
_SEED_BOUND = 2**31
_IDS_AT_ONCE = 8192
# Made once: a million clips are named in seconds.
_encode = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode


def canonical_json(value: Any) -> str:
    """Serialise `value` so that equal values give equal text: sorted keys, no spaces, plain UTF-8."""
    return _encode(value)


def short_hash(value: Any) -> str:
    """Return 16 hex digits of the sha256 of a JSON-serialisable value."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:_ID_HEX_DIGITS]


def set_hash(ids: Iterable[str]) -> str:
    """Return 16 hex digits over a set of ids, given sorted: those of `short_hash(list(ids))`, without the list."""
    digest = hashlib.sha256(b"[")
    remaining, separator = iter(ids), ""
    while some := list(islice(remaining, _IDS_AT_ONCE)):
        digest.update((separator + ",".join(map(encode_basestring, some))).encode())
        separator = ","
    digest.update(b"]")
    return digest.hexdigest()[:_ID_HEX_DIGITS]


def clip_id(
    *,
    prompt: str,
    negative_prompt: str,
    seed: int,
    image: str | None,
    video: str | None,
    source_id: str | None,
    replica: int,
) -> str:
    """Return the 16 hex digits that name a clip: a hash of what defines it, never of its position."""
    # `canonical_json` of these values by name, spelled out: half of the time of planning a million clips.
    return hashlib.sha256(
        (
            f'{{"image":{_quote(image)},"negative_prompt":{_quote(negative_prompt)},"prompt":{_quote(prompt)},'
            f'"replica":{replica:d},"seed":{seed:d},"source_id":{_quote(source_id)},"video":{_quote(video)}}}'
        ).encode()
    ).hexdigest()[:_ID_HEX_DIGITS]


def default_seed(prompt: str, replica: int, base_seed: int) -> int:
    """Return the seed in [0, 2**31) of a prompt that names none."""
    # As canonical JSON has it, spelled out like that of `clip_id`.
    text = f'["default_seed",{_quote(prompt)},{replica:d},{base_seed:d}]'
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") % _SEED_BOUND


def stage_seed(clip_seed: int, stage: str) -> int:
    """Return the seed in [0, 2**63) of the CPU generator that a stage uses for a clip."""
    return int.from_bytes(hashlib.sha256(f"{clip_seed}/{stage}".encode()).digest()[:8], "big") >> 1


def recipe_hash(stage_settings: Mapping[str, Any], weights_digest: str, upstream: str) -> str:
    """Return 16 hex digits over everything that decides a stage's output for a given clip.

    `upstream` is the recipe hash of the stage before ("" for the first), so that hashes chain.
    """
    return short_hash({"settings": dict(stage_settings), "weights": weights_digest, "upstream": upstream})


def new_run_id() -> str:
    """Return a run id that sorts by time of creation (UTC) and differs between simultaneous runs."""
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


def _quote(value: str | None) -> str:
    return "null" if value is None else encode_basestring(value)
