"""Fixed sequence testing: its definition, and its error rate by simulation."""

import math

import numpy as np
import pytest
from scipy import stats

from calm_jax import errors
from calm_jax.calibration import multiple_testing, p_values

N, FAILURE_PROB, DRAWS = 500, 0.1, 2000
SIGMA = math.sqrt(FAILURE_PROB * (1 - FAILURE_PROB) / DRAWS)
# Risks finely around the tolerance, so that the test could fail: on a coarse
# grid even a wrong procedure jumps over the narrow zone of near misses.
OFFSETS = np.arange(-60, 31) / 1000


def run(p_values_, failure_prob=0.05):
  rejected = multiple_testing.FixedSequence()(np.array(p_values_), failure_prob)
  return rejected.tolist()


def test_stops_at_the_first_failure():
  assert run([0.0, 0.05, 0.050001, 0.0]) == [True, True, False, False]
  assert run([0.2, 0.0]) == [False, False]
  assert run([0.01, 0.02]) == [True, True]
  assert run([]) == []


@pytest.mark.parametrize('bad', [np.nan, -0.1, 1.1])
def test_refuses_what_is_no_p_value(bad):
  with pytest.raises(errors.DataError, match='p-values must be'):
    run([0.01, bad])


def simulated_totals(tolerance):
  """[draws, grid] sums of losses, coupled as thresholds couple them."""
  random = np.random.default_rng(1)
  uniform = np.sort(random.random((DRAWS, N)), axis=1)
  risks = tolerance + OFFSETS
  return np.array([np.searchsorted(row, risks) for row in uniform])


def violation_rate(decisions):
  """Share of draws [draws, grid] that certify a risk above the tolerance."""
  return np.mean(np.array(decisions)[:, OFFSETS > 1e-9].any(axis=1))


@pytest.mark.parametrize('tolerance', [0.1, 0.5])
@pytest.mark.parametrize(
  ('p_value', 'power_at'),
  [
    # Where each one, conservative as it is, comes close enough to be wrong.
    (p_values.Hoeffding(), [0.5]),
    (p_values.Bentkus(), [0.1, 0.5]),
    (p_values.HoeffdingBentkus(), [0.1, 0.5]),
  ],
  ids=repr,
)
def test_family_wise_error(p_value, power_at, tolerance):
  procedure = multiple_testing.FixedSequence()
  values = p_value.from_totals(simulated_totals(tolerance), N, tolerance)
  rate = violation_rate([procedure(p, FAILURE_PROB) for p in values])
  assert rate <= FAILURE_PROB + 3 * SIGMA
  if tolerance in power_at:
    assert rate > 0.005


def test_an_exact_test_reaches_the_failure_probability():
  """So the simulation is sharp: a rate twice as high would be seen."""
  procedure = multiple_testing.FixedSequence()
  values = stats.binom.cdf(simulated_totals(0.1), N, 0.1)
  rate = violation_rate([procedure(p, FAILURE_PROB) for p in values])
  assert FAILURE_PROB / 2 < rate <= FAILURE_PROB + 3 * SIGMA
  # And one that does not stop in time, the naive rule, is wrong half the time.
  naive = simulated_totals(0.1) / N <= 0.1
  assert violation_rate(naive) > 0.4
