"""Empirical Bernstein and rescaling: the bound put back into its formula."""

import math
import statistics

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from calm_jax import errors
from calm_jax.calibration import betting, p_values, rescaling
from calm_jax.calibration.empirical_bernstein import EmpiricalBernstein

P_VALUE = EmpiricalBernstein()


def upper_bound(losses, failure_prob):
  """Maurer and Pontil 2009, Theorem 4, written as they do."""
  n = len(losses)
  log_term = math.log(2 / failure_prob)
  return (
    statistics.fmean(losses)
    + math.sqrt(2 * statistics.variance(losses) * log_term / n)
    + 7 * log_term / (3 * (n - 1))
  )


@hypothesis.given(
  losses=st.lists(st.floats(0, 1), min_size=2, max_size=60),
  tolerance=st.floats(0.01, 0.99),
)
@hypothesis.settings(deadline=None, derandomize=True, max_examples=200)
def test_the_bound_at_the_p_value_is_the_tolerance(losses, tolerance):
  p = P_VALUE(np.array(losses), tolerance)
  assert 0.0 < p <= 1.0
  if p < 1.0:
    assert upper_bound(losses, p) == pytest.approx(tolerance, rel=1e-9)
  else:
    assert upper_bound(losses, 1.0) >= tolerance * (1 - 1e-9)


def test_special_samples():
  n = 50
  assert P_VALUE(np.zeros(n), 0.1) == pytest.approx(
    min(1, 2 * math.exp(-0.1 * 3 * (n - 1) / 7))
  )
  assert P_VALUE(np.array([0.0]), 0.9) == 1.0  # One loss has no variance.
  assert P_VALUE(np.full(40, 0.3), 0.3) == 1.0
  assert P_VALUE(np.full(40, 0.3), 0.2) == 1.0
  assert isinstance(P_VALUE(np.zeros(n), 0.1), float)


def test_many_at_once_and_from_sums():
  losses = np.random.default_rng(0).random((50, 4, 3)) * 0.3
  together = P_VALUE(losses, 0.4)
  assert together.shape == (4, 3) and 0.0 < together.max() < 1.0
  for i, j in np.ndindex(4, 3):
    assert together[i, j] == pytest.approx(P_VALUE(losses[:, i, j], 0.4))
  sums = losses.sum(axis=0), (losses**2).sum(axis=0)
  assert np.array_equal(P_VALUE.from_moments(*sums, 50, 0.4), together)
  table = P_VALUE(losses[..., None], np.array([0.3, 0.4]))
  assert np.array_equal(table[..., 1], together)


def test_monotone_in_mean_and_tolerance():
  noise = np.random.default_rng(1).random(300) * 0.2
  over_means = [P_VALUE(noise + m, 0.3) for m in (0.0, 0.05, 0.1, 0.2)]
  over_tolerances = [P_VALUE(noise, d) for d in (0.9, 0.5, 0.3, 0.15, 0.1)]
  for values in (over_means, over_tolerances):
    assert values == sorted(values) and values[0] < 0.01 and values[-1] == 1.0


def test_small_variance_is_worth_more_than_the_mean_alone():
  losses = np.random.default_rng(2).random(1000) * 0.16
  assert P_VALUE(losses, 0.1) < 0.01
  assert p_values.HoeffdingBentkus()(losses, 0.1) > 0.05
  # And is not, where the variance is the greatest possible.
  coins = (np.arange(1000) < 60).astype(float)
  assert P_VALUE(coins, 0.1) > p_values.HoeffdingBentkus()(coins, 0.1)


@pytest.mark.parametrize('bad', [np.nan, np.inf, -0.1, 1.01])
def test_losses_outside_0_1_are_refused(bad):
  with pytest.raises(errors.DataError, match=r'finite and in \[0, 1\]'):
    P_VALUE(np.array([0.1, bad]), 0.2)


def test_rescaled_is_the_inner_p_value_of_halved_losses():
  losses = np.random.default_rng(0).uniform(-1, 1, (80, 5)) * 0.3
  for inner in (p_values.Hoeffding(), P_VALUE):
    got = rescaling.Rescaled(inner)(losses, 0.2)
    np.testing.assert_allclose(got, inner(0.5 + losses / 2, 0.6))
  # Hoeffding for a range of 2: exp(-2 n gap^2 / 4).
  gaps = np.maximum(0.2 - losses.mean(axis=0), 0)
  np.testing.assert_allclose(
    rescaling.Rescaled(p_values.Hoeffding())(losses, 0.2),
    np.exp(-80 * gaps**2 / 2),
  )
  with pytest.raises(errors.DataError, match=r'in \[-1, 1\]'):
    rescaling.Rescaled()(np.array([-1.5]), 0.1)


def test_rescaling_needs_a_p_value_for_any_loss_of_0_to_1():
  with pytest.raises(errors.ConfigError, match=r'Binomial\(\).*0 or 1'):
    rescaling.Rescaled(p_values.Binomial())
  rescaling.Rescaled(betting.Betting())  # Needless, but not wrong.
