"""What a sample can certify: closed forms, and simulation."""

import math

import numpy as np
import pytest
from scipy import stats

from calm_jax import errors
from calm_jax.calibration import choices, p_values, power


def test_what_a_sample_can_certify_at_all():
  """Closed forms: (1 - d)^n <= e and exp(-2 n d^2) <= e."""
  smallest = power.smallest_certifiable_tolerance
  for n in (5, 20, 50, 1000):
    assert smallest(n, 0.05) == pytest.approx(1 - 0.05 ** (1 / n))
    assert smallest(n, 0.05, p_values.Hoeffding()) == pytest.approx(
      min(1.0, math.sqrt(math.log(20) / (2 * n)))
    )
  assert smallest(1, 0.05, p_values.Hoeffding()) == 1.0
  needed = power.smallest_certifying_num_examples
  for tolerance in (0.01, 0.1, 0.25):
    assert needed(tolerance, 0.05) == math.ceil(
      math.log(0.05) / math.log(1 - tolerance)
    )
  assert needed(0.1, 0.05) == 29
  with pytest.raises(errors.ConfigError, match='needs more than'):
    needed(1e-9, 0.05)
  with pytest.raises(errors.DataError, match='at least one example'):
    smallest(0, 0.05)


def test_no_loss_under_the_other_p_values():
  smallest = power.smallest_certifiable_tolerance
  for n in (29, 300):
    exact = smallest(n, 0.05, choices.P_VALUES['binomial'])
    assert exact == pytest.approx(1 - 0.05 ** (1 / n))
    bernstein = smallest(n, 0.05, choices.P_VALUES['empirical_bernstein'])
    expected = 7 * math.log(2 / 0.05) / (3 * (n - 1))
    assert bernstein == pytest.approx(min(1, expected))
    # Betting wins at most 1 + 0.75 d / (1 - d) per example.
    betting = smallest(n, 0.05, choices.P_VALUES['betting'])
    share = 0.05 ** (-1 / n) - 1
    assert share / (0.75 + share) <= betting < 1.4 * share / (0.75 + share)


@pytest.mark.parametrize('name', ['hoeffding_bentkus', 'binomial', 'betting'])
def test_the_number_is_the_smallest_that_certifies(name):
  p_value = choices.P_VALUES[name]
  for tolerance in (0.03, 0.2):
    n = power.smallest_certifying_num_examples(tolerance, 0.05, p_value)
    assert p_value(np.zeros(n), tolerance) <= 0.05
    assert p_value(np.zeros(n - 1), tolerance) > 0.05


@pytest.mark.parametrize('n', [10, 101, 1000])
@pytest.mark.parametrize(
  ('mean', 'variance'), [(0.0, None), (0.05, None), (0.05, 0.01), (0.3, 0.0)]
)
def test_typical_losses_have_the_mean_and_variance(n, mean, variance):
  losses = power.typical_losses(n, mean, variance)
  assert losses.shape == (n,) and 0 <= losses.min() <= losses.max() <= 1
  if variance is None:
    assert set(losses.tolist()) <= {0.0, 1.0}
    assert mean <= losses.mean() < mean + 1 / n
  else:
    assert losses.mean() == pytest.approx(mean)
    assert losses.var() == pytest.approx(variance, abs=1.0 / n)
  # Any beginning has about its share of the losses.
  half = losses[: n // 2].sum()
  assert abs(half - losses.sum() / 2) <= 1.0


def test_a_mean_loss_needs_more_and_a_small_variance_less():
  def tolerance(**assumed):
    return power.smallest_certifiable_tolerance(
      1000, 0.05, choices.P_VALUES['betting'], **assumed
    )

  none = tolerance()
  small = tolerance(mean_loss=0.05, variance=0.002)
  greatest = tolerance(mean_loss=0.05)
  assert none < 0.05 < small < greatest < 0.1


@pytest.mark.parametrize(
  ('mean', 'variance'),
  [(1.0, None), (-0.1, None), (math.nan, 0.1), (0.1, 0.2), (0.1, -1e-9)],
)
def test_no_such_losses(mean, variance):
  with pytest.raises(errors.ConfigError, match='mean loss must be in'):
    power.typical_losses(10, mean, variance)


def test_a_tolerance_must_be_above_the_mean_loss():
  with pytest.raises(errors.ConfigError, match='above the mean loss'):
    power.smallest_certifying_num_examples(0.1, 0.05, mean_loss=0.1)


def test_the_chance_of_certifying_is_a_binomial_probability():
  p_value = p_values.Hoeffding()
  got = power.chance_of_certifying(
    200, 0.2, 0.05, p_value, mean_loss=0.1, draws=4000
  )
  counts = np.arange(201)
  passing = counts[p_value.from_totals(counts, 200, 0.2) <= 0.05].max()
  expected = stats.binom.cdf(passing, 200, 0.1)
  assert 0.3 < expected < 0.9
  assert abs(got - expected) < 4 * math.sqrt(expected * (1 - expected) / 4000)
