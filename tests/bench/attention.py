"""Fused against plain attention, forward and backward in bf16 on one core, at the sizes of the embedded family's training.

python tests/bench/attention.py
"""

import time

import torch
import torch.nn.functional as F

from magicvideo_core.training.attention import plain_attention

# (sequences, tokens, context tokens, head width), four heads: motion modules, self- and text attention at 64, 128 px.
SIZES = [(640, 8, 8, 20), (160, 8, 8, 32), (80, 16, 16, 32), (80, 16, 24, 32), (32, 64, 64, 32), (32, 64, 24, 32)]


def seconds(attention, sequences: int, tokens: int, context: int, width: int, repeats: int = 5) -> float:  # type: ignore[no-untyped-def]
    """Seconds of one forward and backward pass."""
    shape = (sequences, tokens, 4, width)
    query, key, value = (
        torch.randn(s, dtype=torch.bfloat16, requires_grad=True)
        for s in (shape, (sequences, context, 4, width), (sequences, context, 4, width))
    )
    best = float("inf")
    for _ in range(repeats):
        started = time.perf_counter()
        attention(query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)).sum().backward()
        best = min(best, time.perf_counter() - started)
    return best


def main() -> None:
    torch.set_num_threads(1)
    print("| sequences | tokens | context | fused, ms | plain, ms | ratio |")
    print("|---|---|---|---|---|---|")
    for size in SIZES:
        fused, plain = seconds(F.scaled_dot_product_attention, *size), seconds(plain_attention, *size)
        print(f"| {size[0]} | {size[1]} | {size[2]} | {fused * 1e3:.1f} | {plain * 1e3:.1f} | {fused / plain:.1f} |")


if __name__ == "__main__":
    main()
