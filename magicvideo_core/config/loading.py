"""Loading a configuration: preset, then file, then overrides, checked once; and naming what differs between two."""

import difflib
import tomllib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from magicvideo_core.config.models import RunConfig
from magicvideo_core.errors import ConfigError

DEFAULT_PRESET = "tiny"


def list_presets() -> list[str]:
    """Return the names of the presets that ship with the package."""
    folder = resources.files("magicvideo_core.config") / "presets"
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def load_config(
    preset: str = DEFAULT_PRESET, config_file: str | Path | None = None, overrides: Sequence[str] = ()
) -> RunConfig:
    """Return the resolved configuration: the preset, changed by a TOML file, changed by `key=value` overrides.

    Override keys are dotted (`i2v.num_inference_steps=8`); values are TOML, and plain text where they are no TOML.
    Raises ConfigError in one sentence that names the key, its value, where it comes from and what is allowed.
    """
    values = _read_preset(preset)
    origins: dict[str, str] = {}
    if config_file is not None:
        _merge(values, _read_file(Path(config_file)), f"configuration file {config_file}", origins)
    for override in overrides:
        _merge(values, _parse_override(override), f"override {override!r}", origins)
    try:
        return RunConfig.model_validate({**values, "preset": preset})
    except ValidationError as error:
        raise ConfigError(_describe(error, preset, origins)) from None


def diff_configs(a: RunConfig, b: RunConfig) -> list[str]:
    """Return the dotted keys whose values differ between two configurations, in their written order."""
    left, right = _flatten(a.model_dump(mode="json")), _flatten(b.model_dump(mode="json"))
    return [key for key in dict.fromkeys([*left, *right]) if left.get(key) != right.get(key)]


def _read_preset(preset: str) -> dict[str, Any]:
    presets = list_presets()
    if preset not in presets:
        raise ConfigError(f"Unknown preset {preset!r}: choose one of {', '.join(presets)}.")
    text = (resources.files("magicvideo_core.config") / "presets" / f"{preset}.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


def _read_file(path: Path) -> dict[str, Any]:
    try:
        values = tomllib.loads(path.read_bytes().decode("utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"Configuration file {path} does not exist: check the path.") from None
    except OSError as error:
        raise ConfigError(f"Configuration file {path} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"Configuration file {path} is not UTF-8 (byte {error.start}): save it as UTF-8.") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"Configuration file {path} is not valid TOML: {error}.") from None
    if "preset" in values:
        raise ConfigError(f"Configuration file {path} sets key 'preset': remove it and choose with --preset instead.")
    return values


def _parse_override(override: str) -> dict[str, Any]:
    key, separator, text = override.partition("=")
    parts = [part.strip() for part in key.split(".")]
    if not separator or not all(parts):
        raise ConfigError(f"Override {override!r} is not of the form key=value, such as i2v.num_inference_steps=8.")
    if parts == ["preset"]:
        raise ConfigError(f"Override {override!r} sets key 'preset': choose it with --preset instead.")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    for part in reversed(parts):
        value = {part: value}
    return dict(value)


def _merge(
    base: dict[str, Any], changes: Mapping[str, Any], origin: str, origins: dict[str, str], prefix: str = ""
) -> None:
    """Merge `changes` into `base` key by key, noting in `origins` where each dotted key was last set."""
    for key, value in changes.items():
        dotted = f"{prefix}{key}"
        if isinstance(value, Mapping) and isinstance(base.get(key, {}), dict):
            _merge(base.setdefault(key, {}), value, origin, origins, f"{dotted}.")
        else:
            base[key] = value
        origins[dotted] = origin


def _describe(error: ValidationError, preset: str, origins: Mapping[str, str]) -> str:
    """Put the first problem of a validation error into one sentence."""
    problem = error.errors(include_url=False)[0]
    path = [str(part) for part in problem["loc"]]
    key = ".".join(path)
    origin = next((text for dotted, text in origins.items() if dotted == key or dotted.startswith(f"{key}.")), None)
    where = origin or f"preset {preset}"
    if problem["type"] == "extra_forbidden":
        allowed = _allowed_keys(path[:-1])
        close = difflib.get_close_matches(path[-1], allowed, n=1)
        hint = f"did you mean {'.'.join([*path[:-1], close[0]])}? " if close else ""
        return f"Unknown key {key!r} in {where}: {hint}allowed keys are {', '.join(allowed)}."
    if problem["type"] == "missing":
        return f"Key {key!r} is missing in {where}: set it."
    reason = problem["msg"].removeprefix("Value error, ")
    reason = reason[:1].lower() + reason[1:]
    if isinstance(problem["input"], Mapping):
        return f"Invalid {key!r} in {where}: {reason}."
    return f"Invalid value {problem['input']!r} for key {key!r} in {where}: {reason}."


def _allowed_keys(path: Sequence[str]) -> list[str]:
    model: Any = RunConfig
    for part in path:
        model = model.model_fields[part].annotation
        if not (isinstance(model, type) and issubclass(model, BaseModel)):
            return []
    return [name for name in model.model_fields if name != "preset"]


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
