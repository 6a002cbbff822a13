"""Intervals of shares and of paired differences, against values worked out by hand and by the papers' formulas."""

import pytest

from magicvideo_core.evaluation.intervals import (
    mean_estimate,
    paired_mean_difference,
    paired_share_difference,
    wilson_interval,
)


def test_wilson_interval_of_known_shares() -> None:
    assert wilson_interval(0, 0) == (0.0, 1.0)
    assert wilson_interval(8, 10) == pytest.approx((0.490, 0.943), abs=1e-3)
    low, high = wilson_interval(100, 100)
    assert low == pytest.approx(0.963, abs=1e-3) and high == pytest.approx(1.0)


def test_the_mean_of_a_large_sample_has_the_normal_interval() -> None:
    values = [0.0, 1.0] * 200
    found = mean_estimate(values)
    assert found is not None and found == mean_estimate(values)
    assert (found.value, found.count) == (0.5, 400)
    assert (found.low, found.high) == pytest.approx((0.451, 0.549), abs=4e-3)
    assert mean_estimate([]) is None


def test_paired_shares_need_more_disagreement_than_chance() -> None:
    # Six losses and no gain among 200 pairs: exact McNemar p = 0.03; five: p = 0.06.
    six = paired_share_difference([(True, False)] * 6 + [(True, True)] * 194)
    five = paired_share_difference([(True, False)] * 5 + [(True, True)] * 195)
    assert six is not None and five is not None
    assert six.value == -0.03 and six.excludes_zero and not five.excludes_zero
    same = paired_share_difference([(True, True)] * 50)
    assert same is not None and same.low < 0 < same.high


def test_paired_means_take_out_what_the_clips_have_in_common() -> None:
    pairs = [(float(n), n + 0.1 + 0.01 * (n % 3)) for n in range(60)]
    found = paired_mean_difference(pairs)
    assert found is not None and found.excludes_zero
    assert found.value == pytest.approx(0.11, abs=1e-6)
