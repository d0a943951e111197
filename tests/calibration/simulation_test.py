"""The proof by simulation: who goes wrong, and how often.

2,000 draws of a calibration set. The grid is fine around the limit: the true
mean loss crosses the tolerance between neighbouring thresholds, so that a wrong
procedure is caught (on a coarse grid it jumps over the narrow zone of near
misses). Losses are coupled as thresholds couple them: an example that is lost
at a threshold is lost at every lower one.
"""

import functools
import math

import numpy as np
import pytest
from scipy import stats

from calm_jax.calibration import (
  choices,
  conformal_risk_control,
  multiple_testing,
  p_values,
  planning,
)

N, TOLERANCE, FAILURE_PROB, DRAWS = 300, 0.1, 0.1, 2000
SIGMA = math.sqrt(FAILURE_PROB * (1 - FAILURE_PROB) / DRAWS)
RISKS = (
  TOLERANCE
  + np.array(
    [-90, -60, -50, -40, -30, -20, -10, -5, -2, -1, 0]
    + [0.2, 0.5, 1, 2, 5, 10, 20, 30]
  )
  / 1000
)
VERY_SAFE, SAFE = 0, 1  # columns of risk 0.01 and 0.04
TOO_MUCH = RISKS > TOLERANCE + 1e-9

FAMILY_WISE = {
  name: procedure
  for name, procedure in choices.PROCEDURES.items()
  if isinstance(procedure, multiple_testing.MultipleTesting)
}
# Losses are 0 or this. At 1 the bounds of the mean alone are tight; at 0.6
# those that learn the variance are.
VALUES = {
  'hoeffding': 1.0,
  'chernoff_hoeffding': 1.0,
  'bentkus': 1.0,
  'hoeffding_bentkus': 1.0,
  'binomial': 1.0,
  'betting': 0.6,
  'star_bets': 0.6,
  'empirical_bernstein': 0.6,
}


@functools.cache
def simulated(p_value, value, level=FAILURE_PROB):
  """p-values [draws, grid], and the mean losses that they are of."""
  random = np.random.default_rng(1)
  uniform = random.random((N, DRAWS, 1)).astype(np.float32)
  losses = value * (uniform < (RISKS / value).astype(np.float32))
  if p_value is None:
    return losses
  if p_value in ('betting', 'star_bets'):
    aimed = choices.P_VALUES[p_value].aimed_at(level)
    return aimed(losses, TOLERANCE)
  if p_value == 'empirical_bernstein':
    return choices.P_VALUES[p_value].from_moments(
      losses.sum(axis=0), (losses**2).sum(axis=0), N, TOLERANCE
    )
  return choices.P_VALUES[p_value].from_totals(losses.sum(axis=0), N, TOLERANCE)


def violation_rate(decisions):
  """Share of draws [draws, grid] that certify a risk above the tolerance."""
  return np.mean(np.asarray(decisions)[:, TOO_MUCH].any(axis=1))


BETS = ('betting', 'star_bets')
STRONG = ('bentkus', 'hoeffding_bentkus', 'binomial', *BETS)


@pytest.mark.parametrize('procedure', FAMILY_WISE)
@pytest.mark.parametrize('p_value', VALUES)
def test_family_wise_error_and_power(p_value, procedure):
  level = FAMILY_WISE[procedure].first_level(FAILURE_PROB, len(RISKS))
  if p_value not in BETS:
    level = FAILURE_PROB
  certified = FAMILY_WISE[procedure](
    simulated(p_value, VALUES[p_value], level), FAILURE_PROB
  )
  rate = violation_rate(certified)
  assert rate <= FAILURE_PROB + 3 * SIGMA
  # Not trivially: the failure probability is used where a bound is tight.
  if p_value in STRONG and procedure == 'fixed_sequence':
    assert rate > (0.05 if p_value in ('binomial', *BETS) else 0.01)
    assert certified[:, SAFE].mean() > 0.97
  if p_value == 'binomial':
    assert rate > 0.0
  if p_value in STRONG:
    assert certified[:, VERY_SAFE].mean() > 0.99
  assert certified.any()


def test_an_exact_test_reaches_the_failure_probability():
  """So the simulation is sharp: a rate twice as high would be seen."""
  rate = violation_rate(
    FAMILY_WISE['fixed_sequence'](simulated('binomial', 1.0), FAILURE_PROB)
  )
  # Counts are whole numbers, so not all of it can be used.
  count = stats.binom.ppf(FAILURE_PROB, N, TOLERANCE) - 1
  expected = stats.binom.cdf(count, N, RISKS[TOO_MUCH][0])
  sigma = math.sqrt(expected * (1 - expected) / DRAWS)
  assert abs(rate - expected) <= 4 * sigma
  assert expected > 0.05


def test_the_naive_rule_is_wrong_half_the_time():
  """The lowest threshold whose mean calibration loss is within the tolerance,
  which many take: what the procedures are for."""
  means = simulated(None, 1.0).mean(axis=0)
  assert violation_rate(means <= TOLERANCE) > 0.4


def test_each_threshold_at_the_full_probability_is_too_often():
  """Without a procedure, where losses at different thresholds differ."""
  random = np.random.default_rng(3)
  risks = np.full(30, TOLERANCE + 1e-6)
  totals = random.binomial(N, risks, (DRAWS, 30))
  values = p_values.Binomial().from_totals(totals, N, TOLERANCE)
  sigma = math.sqrt(0.09 / DRAWS)
  assert np.mean((values <= FAILURE_PROB).any(axis=1)) > 0.5
  for procedure in FAMILY_WISE.values():
    certified = procedure(values, FAILURE_PROB)
    assert certified.any(axis=1).mean() <= FAILURE_PROB + 3 * sigma


def test_several_starts_pass_a_bump_that_stops_the_sequence():
  """What they are for: losses that fall again further down the grid."""
  random = np.random.default_rng(4)
  risks = np.full(20, 0.02)
  risks[3] = 0.2
  totals = random.binomial(N, risks, (DRAWS, 20))
  values = p_values.Binomial().from_totals(totals, N, TOLERANCE)
  reached = {
    name: procedure(values, FAILURE_PROB)[:, -1].mean()
    for name, procedure in FAMILY_WISE.items()
  }
  assert reached['fixed_sequence'] == 0.0
  for name in ('multi_start_fixed_sequence', 'bonferroni', 'holm'):
    assert reached[name] > 0.9


@pytest.mark.parametrize('p_value', ['binomial', 'hoeffding_bentkus'])
def test_a_known_safe_threshold_is_found_at_the_stated_number(p_value):
  """`planning` says how many examples; the procedure then finds it so often."""
  chance, safe = 0.8, TOLERANCE / 2
  stated = planning.num_examples_for_chance(
    TOLERANCE,
    FAILURE_PROB,
    planning.ExpectedLoss(safe),
    choices.P_VALUES[p_value],
    chance=chance,
  )
  random = np.random.default_rng(5)
  totals = random.binomial(stated, safe, (DRAWS, 1))
  values = choices.P_VALUES[p_value].from_totals(totals, stated, TOLERANCE)
  found = FAMILY_WISE['fixed_sequence'](values, FAILURE_PROB).mean()
  # The standard errors of both simulations.
  error = math.sqrt(chance * (1 - chance) * (1 / DRAWS + 1 / 1000))
  assert found > chance - 3 * error


def test_conformal_risk_control_holds_on_average_and_not_more():
  """Its mean risk is within the tolerance, and it is above it far more often
  than the family-wise procedures allow: the weaker guarantee."""
  losses = simulated(None, 1.0)
  chosen = conformal_risk_control.ConformalRiskControl()(losses, TOLERANCE)
  number = chosen.sum(axis=1)  # a beginning of the grid
  risks = np.concatenate([[0.0], RISKS])[number]
  error = risks.std() / math.sqrt(DRAWS)
  assert risks.mean() <= TOLERANCE + 3 * error
  # Nor is it far below: the guarantee is tight up to the grid and 1 / (n + 1).
  assert risks.mean() > TOLERANCE - 0.01
  assert violation_rate(chosen) > 3 * FAILURE_PROB
