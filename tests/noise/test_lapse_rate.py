"""The lapse-rate estimate: planted levels, intervals, and the posterior of a label."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtr

from datadiet.noise.lapse_rate import STILL_SEEN, Curve, Evidence, evidence, fit_curve, fit_level, normal_scores
from toys import planted


def simulated(level, classes=2, rows=10_000, seed=0, **options):
    """Evidence of rows whose labels contradict the model at a level, with errors of offset 1 and slope 1.2."""
    rng = np.random.default_rng(seed)
    scores = normal_scores(rng.uniform(size=rows))
    errors = ndtr(-(1.0 + 1.2 * scores))
    wrong = rng.uniform(size=rows) < level + (1 - level * classes / (classes - 1)) * errors
    return evidence(scores, wrong, **options)


@pytest.mark.parametrize(("rate", "classes"), [(0.0, 2), (0.1, 2), (0.2, 10), (0.3, 3)])
def test_a_planted_level_is_found_within_its_interval(rate, classes):
    counts = simulated(rate, classes, rows=20_000)
    level = fit_level([counts], classes)
    assert level.low <= rate <= level.high
    assert level.high - level.low < 0.06
    assert level.rate == pytest.approx(rate, abs=0.02)
    curve = fit_curve(counts, classes, rate=level.rate)
    assert (curve.offset, curve.slope) == (pytest.approx(1.0, abs=0.3), pytest.approx(1.2, abs=0.3))


def test_parts_that_agree_make_the_interval_smaller():
    one, both = (fit_level([simulated(0.1, seed=100)] * times, 2) for times in (1, 2))
    assert one.rate == both.rate
    assert both.high - both.low < one.high - one.low


def test_second_exposures_allow_for_memorised_labels():
    """At their second exposure fewer labels contradict: the level may be larger than it looks."""
    first, again = simulated(0.2, seed=200), simulated(0.2 * STILL_SEEN, seed=133, again=True)
    assert fit_level([first, again], 2).rate == pytest.approx(0.2, abs=0.02)
    assert fit_level([again], 2).high > 0.18
    as_if_first = Evidence(again.scores, again.contradicted, again.rows)
    assert fit_level([first, as_if_first], 2).rate < 0.18


@pytest.mark.proves("auto", kind="offset")
def test_suspicion_is_the_posterior_by_hand():
    curve = Curve(0.1, offset=1.0, slope=1.0)
    error = ndtr(-1.0)  # at score 0, of three classes
    clean_wrong, flipped_wrong = 0.9 * error, 0.1 * (1 - error / 2)
    suspicion = curve.suspicion(np.zeros(2), np.array([True, False]), 3)
    assert suspicion[0] == pytest.approx(flipped_wrong / (clean_wrong + flipped_wrong), rel=1e-9)
    assert suspicion[1] == pytest.approx(0.1 * error / 2 / (0.9 * (1 - error) + 0.1 * error / 2), rel=1e-9)


@given(st.floats(0, 0.4), st.floats(-1, 4), st.floats(0.5, 4), st.integers(2, 20))
@settings(max_examples=50, deadline=None)
def test_of_contradictions_the_sure_ones_are_suspected_most(rate, offset, slope, classes):
    curve = Curve(min(rate, (classes - 1) / classes), offset, slope)
    suspicion = curve.suspicion(np.linspace(-3, 3, 31), np.ones(31, bool), classes)
    assert ((suspicion >= 0) & (suspicion <= 1)).all()
    assert (np.diff(suspicion) >= -1e-9).all()


def test_only_the_order_of_the_confidences_matters():
    data = planted(0.1)
    columns = data.epoch(0)
    confidence = np.exp(np.maximum(columns["margin"], 0) - columns["loss"]).astype(float)
    assert np.array_equal(normal_scores(confidence), normal_scores(confidence**3))
