"""The interpolation scores: blending against itself, and the truth at the ceiling."""

import numpy as np

from magicvideo_core.evaluation.vfi import blend_pair, evaluate_vfi, format_table, moving_psnr_db


def test_blending_scores_as_blending() -> None:
    scores = evaluate_vfi(blend_pair, sequences_per_kind=1)
    assert {each.kind for each in scores} >= {"moving left", "spinning", "growing", "two objects", "held out"}
    assert all(each.psnr_db == each.blend_psnr_db and each.num_frames == 2 for each in scores)
    assert "| spinning | 2 |" in format_table(scores)


def test_psnr_counts_the_chosen_pixels_alone() -> None:
    truth = np.zeros((4, 4, 3), dtype=np.uint8)
    predicted, moving = truth.copy(), np.zeros((4, 4), dtype=bool)
    predicted[0, 0], moving[0, 0] = 255, True
    assert moving_psnr_db(predicted, truth, moving) == 0
    assert moving_psnr_db(predicted, truth, ~moving) == 60
