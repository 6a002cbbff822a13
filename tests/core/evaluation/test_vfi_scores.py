"""The interpolation scores: the truth at the ceiling, blending below optical flow, the bars, sequences that stay the same."""

import numpy as np
import pytest

from magicvideo_core.evaluation.dis import dis_flow, dis_pair
from magicvideo_core.evaluation.frame_measures import flicker, gmsd, psnr_db, ssim
from magicvideo_core.evaluation.vfi import blend_pair, evaluate_vfi, format_bars, format_table, score_sequence
from magicvideo_core.evaluation.vfi_sequences import CUT_KIND, KINDS, OBJECT_KIND, held_out_sequences


@pytest.mark.parametrize("kind", ["spinning", "held out", "textured, 8 px", CUT_KIND])
def test_the_truth_is_at_the_ceiling_and_blending_is_not(kind: str) -> None:
    (sequence,) = held_out_sequences(1, kinds=(kind,))
    best = score_sequence("truth", sequence.truth_THWC_u8, sequence)
    assert (best.psnr_db, best.ssim, best.gmsd, best.flicker) == (60, pytest.approx(1), pytest.approx(0, abs=1e-6), 0)
    (blended,) = evaluate_vfi({"blending": blend_pair}, [sequence])
    assert blended.psnr_db < 40 and blended.ssim < 1 and blended.gmsd > 0 and blended.flicker > 1


def test_sequences_are_the_same_whatever_their_number() -> None:
    for kind in ("two objects", OBJECT_KIND):
        (one,) = held_out_sequences(1, kinds=(kind,))
        first, *_ = held_out_sequences(3, kinds=(kind,))
        assert np.array_equal(one.truth_THWC_u8, first.truth_THWC_u8)
    assert {"moving left", "two objects", "held out", "textured, 24 px", "zoom", "rotation", "cut"} <= set(KINDS)


def test_optical_flow_finds_a_shift_and_is_far_above_blending() -> None:
    (sequence,) = held_out_sequences(1, kinds=("textured, 12 px",))
    flow = dis_flow(sequence.first_HWC_u8, sequence.second_HWC_u8)
    assert np.median(np.hypot(flow[..., 0], flow[..., 1])) == pytest.approx(12, abs=0.2)
    scores = evaluate_vfi({"blending": blend_pair, "DIS": dis_pair}, [sequence])
    assert scores[1].psnr_db > scores[0].psnr_db + 8
    assert "| textured, 12 px | 1 |" in format_table(scores)
    assert "met: DIS, textured, 12 px: +0.00 dB against DIS, -1.5 asked" in format_bars(scores, "DIS")
    assert "NOT met: blending, textured, 12 px" in format_bars(scores, "blending")


def test_measures_count_the_chosen_pixels_alone() -> None:
    truth = np.zeros((16, 16, 3), dtype=np.uint8)
    predicted, moving = truth.copy(), np.zeros((16, 16), dtype=bool)
    predicted[0, 0], moving[0, 0] = 255, True
    assert psnr_db(predicted, truth, moving) == 0
    assert psnr_db(predicted, truth, ~moving) == 60
    far = np.zeros_like(moving)
    far[10:, 10:] = True
    assert ssim(predicted, truth, far) == pytest.approx(1)
    assert gmsd(predicted, truth, far) == 0
    assert flicker(np.stack([truth, predicted, truth]), np.stack([truth] * 3), far) == 0
    assert flicker(np.stack([truth, predicted, truth]), np.stack([truth] * 3), moving) == 510
