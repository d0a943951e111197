"""The upper bound, against closed forms and by simulation."""

import numpy as np
import pytest
from scipy import optimize, stats

from calm_jax import errors
from calm_jax.calibration import p_values
from calm_jax.evaluation import bounds


@pytest.mark.parametrize('n', [1, 10, 300])
def test_without_loss_it_is_the_closed_form(n):
  """kl(0, d) = -log(1 - d), so p = (1 - d)^n."""
  bound = bounds.mean_loss_upper_bound(np.zeros(n))
  assert bound == pytest.approx(1 - 0.05 ** (1 / n), abs=1e-12)


def test_with_hoeffding_it_is_the_closed_form():
  losses = np.random.default_rng(0).uniform(0, 0.3, 200)
  bound = bounds.mean_loss_upper_bound(losses, 0.9, p_values.Hoeffding())
  expected = losses.mean() + np.sqrt(np.log(10) / (2 * 200))
  assert bound == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize('seed', range(5))
def test_is_where_another_root_finder_finds_it(seed):
  random = np.random.default_rng(seed)
  losses = random.beta(0.3, 4, 50 * (seed + 1))
  p_value = p_values.HoeffdingBentkus()
  root = optimize.brentq(
    lambda tolerance: p_value(losses, tolerance) - 0.05,
    losses.mean() + 1e-9,
    1 - 1e-9,
    xtol=1e-12,
  )
  bound = bounds.mean_loss_upper_bound(losses)
  assert bound == pytest.approx(root, abs=1e-9)
  assert losses.mean() < bound < 1


@pytest.mark.parametrize('mean', [0.02, 0.1, 0.4])
def test_covers_the_true_mean_as_often_as_promised(mean):
  """Exactly: losses of 0 and 1 are known by how many are 1."""
  n, counts = 60, np.arange(61)
  upper = [bounds.mean_loss_upper_bound(np.arange(n) < k) for k in counts]
  probability = stats.binom.pmf(counts, n, mean)
  assert probability[np.array(upper) >= mean].sum() >= 0.95
  # And it is worth having: not far above Clopper and Pearson's exact bound.
  exact = stats.beta.ppf(0.95, counts[:-1] + 1, n - counts[:-1])
  assert np.all(exact <= np.array(upper[:-1]) + 1e-9)
  assert np.all(upper[:-1] <= exact + 0.06)


def test_edges():
  assert bounds.mean_loss_upper_bound(np.ones(30)) == 1.0
  for wrong in ([], [0.5, np.nan], [1.5]):
    with pytest.raises(errors.DataError):
      bounds.mean_loss_upper_bound(np.array(wrong))
  with pytest.raises(errors.ConfigError, match='0.95'):
    bounds.mean_loss_upper_bound(np.zeros(3), 95)
