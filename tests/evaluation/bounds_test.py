"""The upper bound, against closed forms and by simulation."""

import numpy as np
import pytest
from scipy import optimize, stats
from testing import losses as made

from calm_jax import errors
from calm_jax.calibration import loss_ranges, p_values
from calm_jax.evaluation import bounds

PAPER = p_values.HoeffdingBentkus()


@pytest.mark.parametrize('n', [1, 10, 300])
def test_without_loss_it_is_the_closed_form(n):
  """kl(0, d) = -log(1 - d), so p = (1 - d)^n."""
  bound = bounds.mean_loss_upper_bound(np.zeros(n), p_value=PAPER)
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
  root = optimize.brentq(
    lambda tolerance: PAPER(losses, tolerance) - 0.05,
    losses.mean() + 1e-9,
    1 - 1e-9,
    xtol=1e-12,
  )
  bound = bounds.mean_loss_upper_bound(losses, p_value=PAPER)
  assert bound == pytest.approx(root, abs=1e-9)
  assert losses.mean() < bound < 1


@pytest.mark.parametrize('mean', [0.02, 0.1, 0.4])
def test_covers_the_true_mean_as_often_as_promised(mean):
  """Exactly: losses of 0 and 1 are known by how many are 1."""
  n, counts = 60, np.arange(61)
  upper = [
    bounds.mean_loss_upper_bound(np.arange(n) < k, p_value=PAPER)
    for k in counts
  ]
  probability = stats.binom.pmf(counts, n, mean)
  assert probability[np.array(upper) >= mean].sum() >= 0.95
  # And it is worth having: not far above Clopper and Pearson's exact bound.
  exact = stats.beta.ppf(0.95, counts[:-1] + 1, n - counts[:-1])
  assert np.all(exact <= np.array(upper[:-1]) + 1e-9)
  assert np.all(upper[:-1] <= exact + 0.06)


def test_the_exact_one_is_clopper_and_pearsons():
  p_value = bounds.default_p_value(loss_ranges.ZERO_OR_ONE)
  for count in (0, 3, 40):
    bound = bounds.mean_loss_upper_bound(np.arange(60) < count, 0.95, p_value)
    assert bound == pytest.approx(stats.beta.ppf(0.95, count + 1, 60 - count))


@pytest.mark.parametrize(
  'name', ['mostly none, else any', 'rare and large', 'uniform']
)
def test_betting_covers_the_true_mean_and_is_closer_than_the_paper(name):
  """The default for other losses, on 400 samples of 60."""
  samples = made.in_unit_interval(0.1)[name](
    np.random.default_rng(0), (400, 60)
  )
  betting, paper = (
    np.array([bounds.mean_loss_upper_bound(x, p_value=p) for x in samples])
    for p in (bounds.default_p_value(loss_ranges.UNIT), PAPER)
  )
  sigma = np.sqrt(0.05 * 0.95 / len(samples))
  assert np.mean(betting < 0.1) <= 0.05 + 3 * sigma
  assert betting.mean() < paper.mean()
  # The bound is where the p-value crosses the level.
  p_value = bounds.default_p_value(loss_ranges.UNIT).aimed_at(0.05)
  for losses, bound in zip(samples[:20], betting, strict=False):
    assert p_value(losses, bound) == pytest.approx(0.05, abs=1e-9)
    assert p_value(losses, bound - 1e-6) > 0.05


def test_edges():
  assert bounds.mean_loss_upper_bound(np.ones(30)) == 1.0
  for wrong in ([], [0.5, np.nan], [1.5]):
    with pytest.raises(errors.DataError):
      bounds.mean_loss_upper_bound(np.array(wrong))
  with pytest.raises(errors.ConfigError, match='0.95'):
    bounds.mean_loss_upper_bound(np.zeros(3), 95)
