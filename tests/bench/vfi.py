"""Frame interpolation against the rendered truth, beside linear blending and DIS optical flow: quality by kind of sequence.

python tests/bench/vfi.py [--sequences 8] [--psnr-only] [--set NAME:key=value ...]
"""

import argparse

from magicvideo_core.config.loading import load_config
from magicvideo_core.evaluation.dis import dis_pair
from magicvideo_core.evaluation.vfi import (
    BLENDING,
    DIS,
    MEASURES,
    InterpolatePair,
    blend_pair,
    evaluate_vfi,
    format_bars,
    format_table,
    stage_interpolator,
)
from magicvideo_core.evaluation.vfi_sequences import KINDS, held_out_sequences
from magicvideo_core.stages.vfi import VFIStage


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sequences", type=int, default=8, help="per kind")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kinds", nargs="*", default=list(KINDS), choices=list(KINDS), metavar="KIND")
    parser.add_argument("--psnr-only", action="store_true", help="leave out the other measures' tables")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME:KEY=VALUE",
        help="one more column: the preset tiny with a setting changed",
    )
    options = parser.parse_args()
    columns: dict[str, InterpolatePair] = {BLENDING: blend_pair, DIS: dis_pair}
    for name, overrides in [("preset", []), *(each.split(":", 1) for each in options.set)]:
        stage = VFIStage(load_config("tiny", overrides=[overrides] if overrides else []))
        stage.load("cpu")
        columns[name] = stage_interpolator(stage)
    scores = evaluate_vfi(columns, held_out_sequences(options.sequences, options.seed, tuple(options.kinds)))
    for measure in list(MEASURES)[: 1 if options.psnr_only else None]:
        print(format_table(scores, measure), end="\n\n")
    for name in columns:
        if name not in (BLENDING, DIS):
            print(format_bars(scores, name), end="\n\n")


if __name__ == "__main__":
    main()
