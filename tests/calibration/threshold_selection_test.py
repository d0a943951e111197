"""From losses to the threshold: decisions, guarantee, refusals."""

import math

import numpy as np
import pytest
from scipy import stats

from calm_jax import errors
from calm_jax.calibration import (
  betting,
  choices,
  conformal_risk_control,
  loss_ranges,
  multiple_testing,
  p_values,
  threshold_selection,
)

THRESHOLDS = [1.0, 0.9, 0.8, 0.7]
PAPER = p_values.HoeffdingBentkus()


def losses_with_means(n, *means):
  """[n, G] losses of 0 and 1 with exactly these means."""
  rows = np.arange(n)[:, None]
  return (rows < np.round(n * np.array(means))).astype(float)


def test_returns_the_last_certified_threshold_and_the_whole_grid():
  losses = losses_with_means(400, 0, 0.02, 0.05, 0.2)
  outcome = threshold_selection.calibrate(losses, THRESHOLDS, 0.1, 0.05, PAPER)
  assert outcome.threshold == 0.8
  assert outcome.certified.tolist() == [True, True, True, False]
  np.testing.assert_allclose(outcome.mean_losses, [0, 0.02, 0.05, 0.2])
  expected = [PAPER(losses[:, g], 0.1) for g in range(1, 4)]
  assert outcome.p_values.tolist() == [0.0, *expected]
  assert '0.8 is the last certified' in outcome.reason
  assert 'at 0.7 the mean loss on 400 examples is 0.2000' in outcome.reason
  assert outcome.warning == ''


def test_stops_at_the_first_failure_even_if_a_later_one_would_pass():
  losses = losses_with_means(400, 0, 0.02, 0.2, 0.02)
  outcome = threshold_selection.calibrate(losses, THRESHOLDS, 0.1, 0.05)
  assert outcome.threshold == 0.9
  assert outcome.certified.tolist() == [True, True, False, False]


def test_nothing_certified_keeps_the_full_model_and_says_why():
  losses = losses_with_means(100, 0, 0.3, 0.4, 0.5)
  outcome = threshold_selection.calibrate(losses, THRESHOLDS, 0.1, 0.05)
  assert outcome.threshold == 1.0
  assert 'No threshold below 1' in outcome.reason
  # Also where the grid does not hold the full model.
  outcome = threshold_selection.calibrate(
    losses[:, 1:], THRESHOLDS[1:], 0.1, 0.05
  )
  assert outcome.threshold == 1.0
  # And where there is nothing but it.
  outcome = threshold_selection.calibrate(losses[:, :1], [1.0], 0.1, 0.05)
  assert outcome.threshold == 1.0 and 'end of the grid' in outcome.reason


def test_everything_certified():
  outcome = threshold_selection.calibrate(
    np.zeros((100, 4)), THRESHOLDS, 0.1, 0.05
  )
  assert outcome.threshold == 0.7
  assert 'end of the grid' in outcome.reason


def test_guarantee_and_power_by_simulation():
  """Violations are rare, and every risk is reached as often as theory says.

  Losses are 0 or 0.8 and grow as the threshold falls, so a risk is reached
  whenever its own p-value passes: a binomial probability.
  """
  n, tolerance, failure_prob, draws = 300, 0.1, 0.1, 2000
  risk = tolerance + np.arange(-80, 41, 2) / 1000  # of each threshold
  thresholds = np.linspace(0.99, 0.2, len(risk))
  random = np.random.default_rng(0)
  reached = np.zeros((draws, len(risk)), bool)
  for draw in range(draws):
    losses = 0.8 * (random.random((n, 1)) < risk / 0.8)
    reached[draw] = (
      thresholds
      >= threshold_selection.calibrate(
        losses, thresholds, tolerance, failure_prob, PAPER
      ).threshold
    )
  rates = reached.mean(axis=0)

  counts = np.arange(n + 1)
  passing = PAPER.from_totals(0.8 * counts, n, tolerance) <= failure_prob
  expected = stats.binom.cdf(counts[passing].max(), n, risk / 0.8)
  sigma = np.sqrt(expected * (1 - expected) / draws)
  assert np.all(np.abs(rates - expected) <= 4 * sigma + 1e-9)

  violations = rates[risk > tolerance + 1e-9].max()
  limit = failure_prob + 3 * math.sqrt(failure_prob * 0.9 / draws)
  assert 0.005 < violations <= limit
  # Power: half of the tolerance is nearly always reached.
  assert rates[np.isclose(risk, tolerance / 2)] > 0.9


@pytest.mark.parametrize(
  ('name', 'value'),
  [(n, v) for n in ('tolerance', 'failure_prob') for v in (0, 1, -1, 1.5)]
  + [('tolerance', math.nan), ('failure_prob', '0.1'), ('tolerance', True)],
)
def test_a_guarantee_outside_0_1(name, value):
  arguments = {'tolerance': 0.1, 'failure_prob': 0.05, name: value}
  with pytest.raises(errors.ConfigError, match='CALM.*Learn-then-Test') as info:
    threshold_selection.calibrate(np.zeros((50, 4)), THRESHOLDS, **arguments)
  assert info.value.args[0].startswith(name)


@pytest.mark.parametrize(
  'thresholds', [[1.1, 0.9], [1.0, math.nan], [1.0, -0.1], [], 0.5, 'high']
)
def test_thresholds_that_are_none(thresholds):
  with pytest.raises(errors.ConfigError, match='thresholds|Thresholds'):
    threshold_selection.calibrate(np.zeros((50, 2)), thresholds, 0.1, 0.05)


def test_any_order_of_the_thresholds_gives_the_same():
  """The columns go with their thresholds; one given twice counts once."""
  losses = losses_with_means(400, 0, 0.02, 0.05, 0.2)
  expected = threshold_selection.calibrate(losses, THRESHOLDS, 0.1, 0.05, PAPER)
  columns = [2, 0, 3, 1, 2]
  got = threshold_selection.calibrate(
    losses[:, columns],
    [THRESHOLDS[i] for i in columns],
    0.1,
    0.05,
    PAPER,
    procedure=multiple_testing.FixedSequence(),
  )
  assert got.threshold == expected.threshold == 0.8
  assert got.thresholds.tolist() == THRESHOLDS
  for name in ('mean_losses', 'p_values', 'certified'):
    assert np.array_equal(getattr(got, name), getattr(expected, name))
  assert '[1.0, 0.9, 0.8, 0.7]' in got.warning and expected.warning == ''


def test_one_threshold_with_two_losses():
  losses = np.zeros((50, 3))
  losses[7, 2] = 0.5
  with pytest.raises(errors.DataError, match='twice.*row 7 is 0.5'):
    threshold_selection.calibrate(losses, [1.0, 0.5, 0.5], 0.1, 0.05)


def test_losses_that_are_no_losses():
  ids = [f'id-{i}' for i in range(50)]

  def run(losses):
    threshold_selection.calibrate(
      losses, THRESHOLDS, 0.1, 0.05, example_ids=ids
    )

  for bad in (math.nan, math.inf, 1.0001, -0.1):
    losses = np.zeros((50, 4))
    losses[17, 2] = bad
    with pytest.raises(errors.DataError, match='id-17 at grid column 2'):
      run(losses)
  losses = np.zeros((50, 4))
  losses[5, 0] = 0.1
  with pytest.raises(errors.DataError, match='At threshold 1.*id-5'):
    run(losses)
  for shape in ((0, 4), (50, 3), (50,)):
    with pytest.raises(errors.DataError, match='must have shape'):
      run(np.zeros(shape))


def test_a_p_value_that_does_not_hold_is_refused_before_the_losses():
  """Even before it is seen that there are none."""

  def run(p_value, loss_range):
    threshold_selection.calibrate(
      np.zeros((0, 4)),
      THRESHOLDS,
      0.1,
      0.05,
      p_value=p_value,
      loss_range=loss_range,
    )

  signed, unit = loss_ranges.SIGNED_UNIT, loss_ranges.UNIT
  with pytest.raises(errors.ConfigError, match="Hoeff.*-1, 1.*'betting'"):
    run(p_values.HoeffdingBentkus(), signed)
  with pytest.raises(errors.ConfigError, match=r'Binomial.*0 or 1.*zero_one'):
    run(p_values.Binomial(), unit)
  with pytest.raises(errors.DataError, match='at least one example'):
    run(betting.Betting(), signed)


def test_improvements_make_up_for_losses_where_they_may():
  random = np.random.default_rng(0)
  losses = np.zeros((600, 2))
  losses[:, 1] = random.choice([-0.5, 0.0, 0.6], 600, p=[0.2, 0.6, 0.2])
  arguments = ([1.0, 0.5], 0.1, 0.05)
  unclipped = threshold_selection.calibrate(
    losses, *arguments, p_value=betting.Betting()
  )
  clipped = threshold_selection.calibrate(
    np.maximum(losses, 0.0), *arguments, p_value=betting.Betting()
  )
  assert unclipped.threshold == 0.5 and clipped.threshold == 1.0
  with pytest.raises(errors.DataError, match=r'in \[0, 1\]'):
    threshold_selection.calibrate(losses, *arguments)


@pytest.mark.parametrize('name', ['bonferroni', 'holm'])
def test_the_lowest_certified_threshold_counts_without_a_sequence(name):
  losses = losses_with_means(400, 0, 0.02, 0.2, 0.02)
  outcome = threshold_selection.calibrate(
    losses, THRESHOLDS, 0.1, 0.05, procedure=choices.PROCEDURES[name]
  )
  assert outcome.certified.tolist() == [True, True, False, True]
  assert outcome.threshold == 0.7
  assert outcome.reason == (
    '0.7, the end of the grid, is certified on 400 examples.'
  )


def test_the_reason_where_the_failure_probability_was_split():
  losses = losses_with_means(100, 0, 0.0, 0.04, 0.04)
  holm = multiple_testing.Holm()
  outcome = threshold_selection.calibrate(
    losses, THRESHOLDS, 0.1, 0.04, p_values.Binomial(), holm
  )
  assert outcome.threshold == 0.9 and outcome.p_values[2] < 0.04
  assert 'is too large for Holm() at failure probability' in outcome.reason


def test_a_split_failure_probability_needs_more_examples():
  for n, warns in ((38, True), (39, False)):  # log(0.05 / 3) / log(0.9) = 38.9
    outcome = threshold_selection.calibrate(
      np.zeros((n, 4)),
      THRESHOLDS,
      0.1,
      0.05,
      PAPER,
      procedure=multiple_testing.Bonferroni(),
    )
    assert (outcome.threshold == 1.0) == warns
    assert ('at least 39 examples' in outcome.warning) == warns


def test_a_sample_too_small_is_warned_of():
  for n, warns in ((28, True), (29, False)):
    outcome = threshold_selection.calibrate(
      np.zeros((n, 4)), THRESHOLDS, 0.1, 0.05
    )
    assert (outcome.threshold == 1.0) == warns
    assert ('at least 29 examples' in outcome.warning) == warns


def test_an_impossible_tolerance_keeps_the_full_model():
  outcome = threshold_selection.calibrate(
    np.zeros((50, 4)), THRESHOLDS, 1e-8, 0.05
  )
  assert outcome.threshold == 1.0
  assert 'do not certify a tolerance of 1e-08' in outcome.warning


def test_conformal_risk_control_says_that_it_is_weaker():
  losses = losses_with_means(400, 0, 0.02, 0.095, 0.2)
  procedure = conformal_risk_control.ConformalRiskControl()
  outcome = threshold_selection.calibrate(
    losses, THRESHOLDS, 0.1, 0.05, PAPER, procedure
  )
  # (38 + 1) / 401 is within the tolerance; no p-value would say so.
  assert outcome.threshold == 0.8 and outcome.p_values[2] > 0.3
  assert outcome.reason.startswith('Weaker guarantee (conformal risk control)')
  few = threshold_selection.calibrate(
    np.zeros((8, 4)), THRESHOLDS, 0.1, 0.05, procedure=procedure
  )
  assert few.threshold == 1.0 and 'at least 9 examples' in few.warning
