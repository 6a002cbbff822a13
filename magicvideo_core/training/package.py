"""Puts a trained family into the package: every safetensors file as fp16, configurations beside it, within the size limit.

python -m magicvideo_core.training.package FAMILY
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from magicvideo_core.config.weights import EMBEDDED_FOLDER
from magicvideo_core.errors import WeightsError

PARTS = {"t2i": ("unet", "vae", "text_encoder", "tokenizer", "scheduler"),
         "i2v": ("motion_adapter", "controlnet", "image_encoder", "ip_adapter"),
         "v2v": ("motion_adapter",)}  # fmt: skip
MAX_BYTES = 24 * 2**20


def package_family(source: Path, target: Path) -> int:
    """Copy the family in `source` (t2i/, i2v/, v2v/) to `target`, tensors as fp16; returns the bytes of all weights there.

    Raises WeightsError where a part is missing, a value does not fit fp16, or `target`'s weights exceed 24 MiB in all.
    """
    for stage, components in PARTS.items():
        for component in components:
            folder = source / stage / component
            if not folder.is_dir():
                raise WeightsError(f"The family in {source} lacks {stage}/{component}: train that module first.")
            destination = target / stage / component
            shutil.rmtree(destination, ignore_errors=True)
            destination.mkdir(parents=True)
            for file in sorted(folder.iterdir()):
                if file.suffix == ".safetensors":
                    _store_half(file, destination / file.name)
                elif file.name == "config.json":
                    _store_configuration(file, destination / file.name)
                elif file.suffix == ".json":
                    shutil.copyfile(file, destination / file.name)
    total = sum(file.stat().st_size for file in target.rglob("*.safetensors"))
    if total > MAX_BYTES:
        raise WeightsError(f"The weights in {target} take {total} bytes; the limit is {MAX_BYTES}.")
    return total


def _store_configuration(source: Path, target: Path) -> None:
    values = json.loads(source.read_text())
    # Where diffusers and transformers had loaded it from: a path of the machine that trained it.
    values.pop("_name_or_path", None)
    target.write_text(json.dumps(values, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def _store_half(source: Path, target: Path) -> None:
    tensors = {}
    for name, value in load_file(source).items():
        tensors[name] = value.to(torch.float16) if value.is_floating_point() else value
        if not torch.isfinite(tensors[name].float()).all():
            raise WeightsError(f"Tensor {name} of {source} does not fit fp16.")
    save_file(tensors, target, metadata={"format": "pt"})


if __name__ == "__main__":
    print(f"{package_family(Path(sys.argv[1]), EMBEDDED_FOLDER)} bytes of weights in {EMBEDDED_FOLDER}")
