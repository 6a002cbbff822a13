"""Loads the components of a model from the hub's file layout: local folders or hub repositories, strictly, safetensors only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers import SchedulerMixin
from safetensors.torch import load_file
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from magicvideo_core.config.weights import WeightsReference
from magicvideo_core.errors import WeightsError


def load_model(model_class: Any, reference: WeightsReference, subfolder: str, dtype: torch.dtype) -> Any:
    """One diffusers or transformers model in evaluation mode, on the CPU.

    Raises WeightsError where the files are missing, or where any key is missing, unexpected or of another shape.
    """
    _silence_progress()
    name, kwargs = _location(reference, subfolder)
    dtype_key = "dtype" if issubclass(model_class, PreTrainedModel) else "torch_dtype"
    try:
        model, info = model_class.from_pretrained(
            name, use_safetensors=True, output_loading_info=True, **{dtype_key: dtype}, **kwargs
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise WeightsError(
            f"{model_class.__name__} cannot be loaded from {_shown(reference, subfolder)}: {error}"
        ) from error
    mismatch = {key: sorted(map(str, info[key])) for key in ("missing_keys", "unexpected_keys", "mismatched_keys")}
    # Position indices are a constant that older exports store and newer classes compute.
    mismatch["unexpected_keys"] = [key for key in mismatch["unexpected_keys"] if not key.endswith("position_ids")]
    if any(mismatch.values()):
        listed = "; ".join(
            f"{kind.replace('_', ' ')}: {', '.join(keys[:5])}" for kind, keys in mismatch.items() if keys
        )
        raise WeightsError(f"{_shown(reference, subfolder)} does not fit {model_class.__name__}: {listed}.")
    return model.eval().requires_grad_(False)


def load_autoencoder(reference: WeightsReference, subfolder: str, dtype: torch.dtype) -> Any:
    """An image autoencoder of whatever diffusers class its configuration names. Raises WeightsError."""
    name, kwargs = _location(reference, subfolder)
    try:
        class_name = diffusers.AutoencoderKL.load_config(name, **kwargs)["_class_name"]
        model_class = getattr(diffusers, class_name)
    except (OSError, KeyError, AttributeError) as error:
        raise WeightsError(f"No autoencoder configuration at {_shown(reference, subfolder)}: {error}") from error
    return load_model(model_class, reference, subfolder, dtype)


def load_tokenizer(reference: WeightsReference, subfolder: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a text encoder. Raises WeightsError."""
    name, kwargs = _location(reference, subfolder)
    try:
        return AutoTokenizer.from_pretrained(name, **kwargs)
    except (OSError, ValueError) as error:
        raise WeightsError(f"No tokenizer at {_shown(reference, subfolder)}: {error}") from error


def load_scheduler(reference: WeightsReference, subfolder: str = "scheduler") -> SchedulerMixin:
    """The scheduler of a checkpoint, of the class that its configuration names. Raises WeightsError."""
    name, kwargs = _location(reference, subfolder)
    try:
        config = diffusers.DDIMScheduler.load_config(name, **kwargs)
        return getattr(diffusers, config["_class_name"]).from_config(config)
    except (OSError, KeyError, AttributeError) as error:
        raise WeightsError(f"No scheduler configuration at {_shown(reference, subfolder)}: {error}") from error


def load_state(reference: WeightsReference, default_name: str) -> dict[str, torch.Tensor]:
    """The tensors of one safetensors file; `default_name` where the reference is a folder. Raises WeightsError."""
    path = reference.path
    if path is None:
        from huggingface_hub import hf_hub_download

        filename = reference.subpath or default_name
        path = Path(hf_hub_download(reference.hub_id, filename, revision=reference.revision or None))
    elif path.is_dir():
        path = path / default_name
    if path.suffix != ".safetensors" or not path.exists():
        raise WeightsError(f"Weights {path} must be an existing .safetensors file.")
    return load_file(path)


def has_file(reference: WeightsReference, filename: str) -> bool:
    """Whether a checkpoint holds a file of that name at its top."""
    if reference.path is not None:
        return (reference.path / filename).exists()
    from huggingface_hub import file_exists

    return bool(file_exists(reference.hub_id, filename, revision=reference.revision or None))


def empty_device_cache() -> None:
    """Give back the GPU memory that torch holds in reserve, once the models in it are no longer referenced."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _silence_progress() -> None:
    """Loading is reported once per stage by whoever asked for it, not by a bar per component."""
    diffusers.logging.disable_progress_bar()
    diffusers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


def _location(reference: WeightsReference, subfolder: str) -> tuple[str, dict[str, Any]]:
    if reference.path is not None:
        return str(reference.path), {"subfolder": subfolder, "local_files_only": True}
    inner = "/".join(part for part in (reference.subpath, subfolder) if part)
    return reference.hub_id, {"subfolder": inner, "revision": reference.revision or None}


def _shown(reference: WeightsReference, subfolder: str) -> str:
    return f"{reference.path or reference.hub_id}{'/' + subfolder if subfolder else ''}"
