"""Several choices under one guarantee: how often any of them is wrong."""

import math

import numpy as np
import pytest

from calm_jax import calibration, errors
from calm_jax.calibration import multiple_testing, several

TOLERANCE, FAILURE_PROB = 0.1, 0.1
# Each row a measure; the loss grows along its thresholds, past the tolerance.
RISKS = TOLERANCE + np.array(
  [
    [-0.08, -0.05, 0.003, 0.02],
    [-0.07, -0.05, 0.002, 0.03],
    [-0.08, -0.06, 0.004, 0.05],
    [-0.08, -0.05, 0.001, 0.02],
  ]
)
LAYERS = np.array(
  [[6, 4, 2, 1], [6, 4, 2.1, 1], [6, 4, 2.2, 1], [6, 4, 2.3, 1]]
)


def limit(draws):
  return FAILURE_PROB + 3 * math.sqrt(FAILURE_PROB * (1 - FAILURE_PROB) / draws)


def drawn(random, n, risks):
  """Losses [n, ...] of these means: half of them, if at all, are lost."""
  return 0.5 * (random.random((n, *risks.shape)) < 2 * risks)


@pytest.mark.parametrize('ordering_share', [0.2, 0.5])
def test_the_best_of_many_candidates_keeps_the_promise(ordering_share):
  draws, n = 400, 240
  random = np.random.default_rng(0)
  testing = several.ParetoTesting(ordering_share)
  risks, layers = RISKS.ravel(), LAYERS.ravel()
  wrong, found = [], []
  for _ in range(draws):
    chosen = testing(drawn(random, n, risks), layers, TOLERANCE, FAILURE_PROB)
    wrong.append(
      np.any(risks[list(chosen.tested)][chosen.certified] > TOLERANCE)
    )
    found.append(8.0 if chosen.candidate is None else layers[chosen.candidate])
  assert np.mean(wrong) <= limit(draws)
  # It is of use: most find more than the highest thresholds.
  assert np.mean(np.array(found) < 6) > 0.5


def test_the_best_of_four_calibrations_does_not():
  """What it is for. Each keeps its promise; the best of them does not."""
  draws, n = 600, 240
  losses = drawn(np.random.default_rng(1), n, np.tile(RISKS, (draws, 1, 1)))
  values = calibration.StarBets(level=FAILURE_PROB)(losses, TOLERANCE)
  passed = multiple_testing.FixedSequence()(values, FAILURE_PROB)
  wrong = (passed & (RISKS > TOLERANCE)).any(axis=2)
  assert np.all(wrong.mean(axis=0) <= limit(draws))
  assert wrong.any(axis=1).mean() > limit(draws)


def test_only_what_no_other_beats_is_tested_in_the_order_of_its_loss():
  losses = np.tile([0.0, 0.02, 0.02, 0.03, 0.05, 0.05], (60, 1))
  costs = np.array([5.0, 5.0, 4.0, 4.0, 3.0, 2.0])
  chosen = several.ParetoTesting()(losses, costs, 0.2, 0.05)
  assert chosen.tested == (0, 2, 5) and chosen.candidate == 5
  assert (chosen.num_ordering, chosen.num_certifying) == (15, 45)
  assert chosen.p_value == calibration.StarBets(level=0.05)
  nothing = several.ParetoTesting()(losses + 0.5, costs, 0.2, 0.05)
  assert nothing.candidate is None and not nothing.certified.any()


def test_the_parts_share_no_example_and_losses_of_one_do_not_order():
  testing = several.ParetoTesting(0.3)
  first, second = testing.parts(100)
  assert sorted([*first, *second]) == list(range(100)) and len(first) == 30
  losses = np.random.default_rng(3).random((100, 4)) * 0.2
  changed = losses.copy()
  changed[second] = changed[second][:, ::-1]
  costs = np.array([4.0, 3.0, 2.0, 1.0])
  before, after = (testing(x, costs, 0.3, 0.05) for x in (losses, changed))
  assert before.tested == after.tested


def test_all_tolerances_of_a_curve_hold_at_once():
  draws, n, grid = 250, 150, [0.9, 0.7, 0.5, 0.3]
  tolerances = (0.05, 0.1, 0.2)
  risks = np.array([0.02, 0.052, 0.102, 0.202])
  random = np.random.default_rng(4)
  wrong, lowest = [], []
  for _ in range(draws):
    losses = drawn(random, n, risks)
    curve = calibration.calibrate_curve(losses, grid, tolerances, FAILURE_PROB)
    wrong.append(
      any(
        np.any(risks[outcome.certified] > tolerance)
        for outcome, tolerance in zip(curve, tolerances, strict=True)
      )
    )
    lowest.append([outcome.threshold for outcome in curve])
  assert np.mean(wrong) <= limit(draws)
  assert np.all(np.diff(np.mean(lowest, axis=0)) < 0)
  assert 'one of 3 tolerances' in curve[0].reason
  assert curve[0].p_value.level == pytest.approx(FAILURE_PROB / 3)
  with pytest.raises(errors.ConfigError, match='each once'):
    calibration.calibrate_curve(losses, grid, (0.1, 0.1), FAILURE_PROB)
  with pytest.raises(errors.ConfigError, match='each once'):
    calibration.calibrate_curve(losses, grid, (), FAILURE_PROB)


def test_every_group_keeps_the_promise():
  """One threshold for all would break it for the long texts."""
  draws, n, grid = 250, 240, [0.9, 0.5]
  risks = {'long': np.array([0.102, 0.2]), 'short': np.array([0.01, 0.03])}
  random = np.random.default_rng(5)
  labels = np.repeat(list(risks), n // 2)
  wrong, pooled, short = [], [], []
  for _ in range(draws):
    losses = np.concatenate([drawn(random, n // 2, x) for x in risks.values()])
    found = calibration.calibrate_groups(
      losses, grid, labels, TOLERANCE, FAILURE_PROB
    )
    wrong.append(
      any(np.any(risks[x][found[x].certified] > TOLERANCE) for x in risks)
    )
    short.append(found['short'].threshold)
    pooled.append(
      calibration.calibrate(losses, grid, TOLERANCE, FAILURE_PROB).threshold
    )
  assert np.mean(wrong) <= limit(draws)
  assert np.mean(np.array(pooled) < 1.0) > 0.5  # wrong for the long texts
  assert np.mean(np.array(short) == 0.5) > 0.5
  assert "the group 'long', one of 2" in found['long'].reason
  with pytest.raises(errors.DataError, match='one example id for each'):
    calibration.calibrate_groups(losses, grid, labels[:3], 0.1, 0.1)


@pytest.mark.parametrize('share', [0.0, 1.0, math.nan])
def test_no_such_share(share):
  with pytest.raises(errors.ConfigError, match='ordering_share'):
    several.ParetoTesting(share)


@pytest.mark.parametrize(
  ('losses', 'costs'),
  [(np.zeros((1, 2)), [1, 2]), (np.zeros((9, 2)), [1]), (np.zeros(9), [1])],
)
def test_no_candidates(losses, costs):
  with pytest.raises(errors.DataError):
    several.ParetoTesting()(losses, costs, 0.1, 0.05)
