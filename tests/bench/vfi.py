"""Frame interpolation against the rendered truth and beside linear blending: PSNR in the moving region, per kind of motion.

python tests/bench/vfi.py [--sequences 8]
"""

import argparse

from magicvideo_core.config.weights import resolve_weights
from magicvideo_core.evaluation.vfi import evaluate_vfi, format_table, pair_interpolator
from magicvideo_core.models.interpolator import load_interpolator


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sequences", type=int, default=8, help="per kind of motion")
    options = parser.parse_args()
    model = load_interpolator(resolve_weights("tiny", "vfi").path)
    print(format_table(evaluate_vfi(pair_interpolator(model), sequences_per_kind=options.sequences)))


if __name__ == "__main__":
    main()
