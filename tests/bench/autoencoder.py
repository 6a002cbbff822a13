"""What of a texture the autoencoder keeps: rendered stills through its encoder and back, judged by the oracle.

python tests/bench/autoencoder.py [FOLDER ...] [--count 150]     # AutoencoderDC folders; the embedded one by default
"""

import argparse
import random
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderDC

from magicvideo_core.config.weights import EMBEDDED_FOLDER
from magicvideo_core.evaluation.prompt_sets import evaluation_prompts
from magicvideo_core.moving_shapes.oracle import judge
from magicvideo_core.moving_shapes.renderer import render
from magicvideo_core.moving_shapes.world import SceneSpec, parse_prompt, place

# Of what a sampled latent may be wrong by.
NOISES = (0.0, 0.2)


def scenes(count: int) -> list[SceneSpec]:
    """Return those of `count` evaluation prompts whose object has a texture, placed at random."""
    found = []
    for prompt in evaluation_prompts(count, 1):
        scene, rng = parse_prompt(prompt), random.Random(prompt)
        assert scene is not None
        if scene.objects[0].texture != "none":
            found.append(SceneSpec(tuple(place(each, rng) for each in scene.objects), scene.background))
    return found


@torch.no_grad()
def measure(vae: AutoencoderDC, chosen: list[SceneSpec], pixels: int, noise: float) -> str:
    """Return a table's row: textures recognised, contrast of dots and stripes (1 = rendered), PSNR in dB."""
    contrasts, errors, recognised = defaultdict(list), [], 0
    generator = torch.Generator().manual_seed(0)
    for scene in chosen:
        image = torch.from_numpy(render(scene, [0.0], pixels)).permute(0, 3, 1, 2).float() / 127.5 - 1
        latents = vae.encode(image).latent
        made = vae.decode(latents + noise * torch.randn(latents.shape, generator=generator)).sample.clamp(-1, 1)
        errors.append(float((made - image).square().mean()))
        frames = ((made + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
        seen, texture = judge(frames, scene.prompt).objects[0].seen, scene.objects[0].texture
        if seen is not None:
            recognised += seen.texture == texture
            contrasts[texture].append(seen.texture_contrast)
    dots, stripes = (float(np.mean(contrasts[name])) for name in ("dotted", "striped"))
    psnr = 10 * np.log10(4 / np.mean(errors))
    return f"| {pixels} | {noise} | {recognised} of {len(chosen)} | {dots:.2f} | {stripes:.2f} | {psnr:.1f} |"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="*", type=Path, default=[EMBEDDED_FOLDER / "t2i" / "vae"])
    parser.add_argument("--count", type=int, default=150)
    options = parser.parse_args()
    chosen = scenes(options.count)
    for folder in options.folders:
        vae = AutoencoderDC.from_pretrained(folder, torch_dtype=torch.float32)
        print(f"\n{folder}\n\n| pixels | noise | recognised | dots | stripes | PSNR, dB |\n|{'---|' * 6}")
        for pixels in (64, 128):
            for noise in NOISES:
                print(measure(vae, chosen, pixels, noise), flush=True)


if __name__ == "__main__":
    main()
