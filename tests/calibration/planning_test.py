"""Chances of certifying, against binomial probabilities."""

import math

import numpy as np
import pytest
from scipy import stats

from calm_jax import errors
from calm_jax.calibration import choices, p_values, planning, power

NONE, HALF = planning.ExpectedLoss(0.0), planning.ExpectedLoss(0.05)


def exact_chance(n, tolerance, mean, p_value):
  counts = np.arange(n + 1)
  passing = counts[p_value.from_totals(counts, n, tolerance) <= 0.05].max()
  return stats.binom.cdf(passing, n, mean)


def test_the_chance_is_a_binomial_probability():
  p_value = p_values.Hoeffding()
  got = planning.chance_of_certifying(
    200, 0.2, 0.05, planning.ExpectedLoss(0.1), p_value, draws=4000
  )
  expected = exact_chance(200, 0.2, 0.1, p_value)
  assert 0.3 < expected < 0.9
  assert abs(got - expected) < 4 * math.sqrt(expected * (1 - expected) / 4000)


def test_the_saw_of_small_variance():
  """Losses of 0 or 0.1: 186 suffice first, 199 for good."""
  expected = planning.ExpectedLoss(0.05, 0.05**2)
  p_value = p_values.HoeffdingBentkus()

  def chance(n):
    counts = np.arange(n + 1)
    passing = counts[
      p_value.from_totals(expected.value * counts, n, 0.1) <= 0.05
    ].max()
    exact = stats.binom.cdf(passing, n, 0.5)
    got = planning.chance_of_certifying(n, 0.1, 0.05, expected, p_value)
    assert got == pytest.approx(exact)
    return got

  enough = [n for n in range(150, 300) if chance(n) >= 0.8]
  assert enough[0] == 186 and set(range(199, 300)) <= set(enough)
  assert 198 not in enough
  assert 199 == planning.num_examples_for_chance(0.1, 0.05, expected, p_value)


@pytest.mark.parametrize('name', ['binomial', 'hoeffding_bentkus'])
def test_the_number_reaches_the_chance(name):
  p_value = choices.P_VALUES[name]
  n = planning.num_examples_for_chance(0.1, 0.05, HALF, p_value)
  # Counts are whole numbers, so the chance is a saw; from n on it is enough.
  assert exact_chance(n - 1, 0.1, 0.05, p_value) < 0.8
  for more in range(n, 2 * n):
    assert exact_chance(more, 0.1, 0.05, p_value) >= 0.8


def test_the_tolerance_reaches_the_chance():
  p_value = p_values.Binomial()
  tolerance = planning.tolerance_for_chance(
    300, 0.05, HALF, p_value, draws=2000
  )
  assert tolerance == round(tolerance, 3)
  assert exact_chance(300, tolerance, 0.05, p_value) > 0.77
  assert exact_chance(300, tolerance - 0.003, 0.05, p_value) < 0.83


def test_a_small_variance_helps_those_who_learn_it():
  def needed(name, variance):
    return planning.num_examples_for_chance(
      0.1,
      0.05,
      planning.ExpectedLoss(0.05, variance),
      choices.P_VALUES[name],
      draws=300,
    )

  assert needed('betting', 0.05**2) < 0.7 * needed('betting', None)
  assert needed('betting', 0.05**2) < 0.7 * needed('hoeffding_bentkus', 0.0025)


def test_without_loss_it_is_certain_or_impossible():
  for name in ('hoeffding_bentkus', 'betting'):
    p_value = choices.P_VALUES[name]

    def chance(n, p_value=p_value):
      return planning.chance_of_certifying(n, 0.1, 0.05, NONE, p_value, draws=3)

    n = power.smallest_certifying_num_examples(0.1, 0.05, p_value)
    assert chance(n) == 1.0 and chance(n - 1) == 0.0
    assert n == planning.num_examples_for_chance(
      0.1, 0.05, NONE, p_value, draws=3
    )


@pytest.mark.parametrize(('mean', 'variance'), [(0.05, 0.01), (0.3, 0.0)])
def test_samples_have_the_mean_and_variance(mean, variance):
  sample = planning.ExpectedLoss(mean, variance).sample(1000, 100, seed=1)
  assert sample.shape == (1000, 100)
  assert 0.0 <= sample.min() <= sample.max() <= 1.0
  error = math.sqrt(variance / sample.size)
  assert abs(sample.mean() - mean) <= 4 * error + 1e-12
  assert sample.var() == pytest.approx(variance, rel=0.1, abs=1e-12)
  coins = planning.ExpectedLoss(mean).sample(100, 10, seed=1)
  assert set(np.unique(coins)) == {0.0, 1.0}


@pytest.mark.parametrize(
  ('mean', 'variance'),
  [(1.0, None), (-0.1, None), (math.nan, 0.1), (0.1, 0.2), (0.1, -1e-9)],
)
def test_no_such_losses(mean, variance):
  with pytest.raises(errors.ConfigError, match='mean loss must be in'):
    planning.ExpectedLoss(mean, variance)


@pytest.mark.parametrize('chance', [0.0, 1.0, 80, math.nan])
def test_no_such_chance(chance):
  with pytest.raises(errors.ConfigError, match='chance of certifying must be'):
    planning.num_examples_for_chance(0.1, 0.05, NONE, chance=chance, draws=2)
  with pytest.raises(errors.ConfigError, match='chance of certifying must be'):
    planning.tolerance_for_chance(50, 0.05, NONE, chance=chance, draws=2)


def test_a_tolerance_that_is_never_certified():
  for mean in (0.1, 0.12):
    with pytest.raises(errors.ConfigError, match='however many examples'):
      planning.num_examples_for_chance(0.1, 0.05, planning.ExpectedLoss(mean))
  with pytest.raises(errors.ConfigError, match='needs more than 32768'):
    planning.num_examples_for_chance(
      0.1, 0.05, planning.ExpectedLoss(0.0999), p_values.HoeffdingBentkus()
    )
  # One example without loss: 1 - d must be at most 0.05, as floats have it.
  paper = p_values.HoeffdingBentkus()
  assert planning.tolerance_for_chance(1, 0.05, NONE, paper) == 0.951
  with pytest.raises(errors.DataError, match='at least one example'):
    planning.chance_of_certifying(0, 0.1, 0.05, NONE)
