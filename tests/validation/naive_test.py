"""Naive rules against plain loops, and where they differ by design."""

import numpy as np
import pytest

from calm_jax import errors
from calm_jax.validation import naive

GRID = np.array([1.0, 0.9, 0.8, 0.7, 0.6])


def make_means(losses, scores=None, layers=None, grid=GRID):
  losses = np.asarray(losses, float)
  return naive.Means(
    grid,
    losses,
    np.asarray(1.0 - losses if scores is None else scores, float),
    np.asarray(8.0 * grid if layers is None else layers, float),
  )


# Falls back below the tolerance after a bump.
BUMP = make_means([0.0, 0.05, 0.2, 0.08, 0.3])


def test_a_careful_scan_stops_at_the_bump_and_a_hasty_search_does_not():
  careful = naive.MeanLossWithinTolerance()
  hasty = naive.MeanLossWithinTolerance(scan=False)
  assert careful.thresholds(BUMP, 0.1) == 0.9
  assert hasty.thresholds(BUMP, 0.1) == 0.7
  assert careful.thresholds(BUMP, 0.2) == hasty.thresholds(BUMP, 0.2) == 0.7


def test_nothing_good_gives_the_full_model():
  for rule in naive.DEFAULTS[:3]:
    assert rule.thresholds(BUMP, 0.01) == 1.0


def test_a_mean_that_equals_the_tolerance_keeps_it():
  # 0.1 + 0.2 is a little more than 0.3.
  means = make_means([0.0, 0.1 + 0.2, 0.4, 0.4, 0.4])
  assert naive.MeanLossWithinTolerance().thresholds(means, 0.3) == 0.9


@pytest.mark.parametrize(
  ('share', 'scan', 'expected'),
  [(0.95, True, 0.9), (0.9, True, 0.8), (0.9, False, 0.6), (1.0, True, 1.0)],
)
def test_a_share_of_the_full_metric(share, scan, expected):
  means = make_means(np.zeros(5), scores=[0.8, 0.77, 0.73, 0.7, 0.75])
  rule = naive.ShareOfFullMetric(share, scan)
  assert rule.thresholds(means, 0.01) == rule.thresholds(means, 0.9) == expected


def test_a_full_model_without_any_score_is_kept_by_nobody():
  means = make_means(np.zeros(5), scores=np.zeros(5))
  assert naive.ShareOfFullMetric(0.9).thresholds(means, 0.1) == 0.6


@pytest.mark.parametrize(
  ('value', 'expected'), [(0.9, 0.9), (0.85, 0.9), (1.0, 1.0), (0.0, 0.6)]
)
def test_a_fixed_threshold_or_the_next_higher(value, expected):
  assert naive.FixedThreshold(value).thresholds(BUMP, 0.1) == expected


def test_fewest_layers_asks_for_cost_not_for_thresholds():
  means = make_means(BUMP.losses, layers=[8, 3, 2, 4, 1])
  assert naive.FewestLayers().thresholds(means, 0.1) == 0.9
  static = make_means(BUMP.losses, layers=[8, 6, 4, 3, 2])
  assert naive.FewestLayers().thresholds(static, 0.1) == 0.7
  same = make_means(np.zeros(5), layers=[8, 3, 3, 3, 3])
  assert naive.FewestLayers().thresholds(same, 0.1) == 0.9


def test_the_oracle_does_not_look_at_the_sample():
  population = make_means(BUMP.losses)
  sample = make_means(np.zeros((3, 5)))
  assert naive.Oracle(population).thresholds(sample, 0.1).tolist() == [0.7] * 3


def test_many_samples_at_once_equal_one_by_one():
  random = np.random.default_rng(0)
  losses = random.random((50, 5))
  losses[:, 0] = 0.0
  scores, layers = random.random((2, 50, 5))
  together = make_means(losses, scores, layers)
  for rule in naive.DEFAULTS:
    apart = [
      rule.columns(make_means(*row), 0.5)
      for row in zip(losses, scores, layers, strict=True)
    ]
    np.testing.assert_array_equal(rule.columns(together, 0.5), apart)
    np.testing.assert_array_equal(
      rule.columns(together, 0.5),
      [by_hand(rule, *row) for row in zip(losses, scores, layers, strict=True)],
    )


def by_hand(rule, losses, scores, layers):
  """The place that a rule chooses for a tolerance of 0.5, by plain loops."""
  match rule:
    case naive.FixedThreshold():
      return 1
    case naive.FewestLayers():
      kept = [g for g in range(5) if losses[g] <= 0.5]
      return min(kept, key=lambda g: layers[g])
    case naive.MeanLossWithinTolerance():
      good = [loss <= 0.5 for loss in losses]
    case naive.ShareOfFullMetric():
      good = [score >= rule.share * scores[0] for score in scores]
  chosen = 0
  for g in range(1, 5):
    if good[g]:
      chosen = g
    elif rule.scan:
      break
  return chosen


def test_names_tell_the_rules_apart():
  names = [rule.name for rule in (*naive.DEFAULTS, naive.Oracle(BUMP))]
  assert len(set(names)) == len(names)
  assert 'keeps_95_percent' in names and 'fixed_0.9' in names


@pytest.mark.parametrize(
  'make',
  [
    lambda: naive.FixedThreshold(1.1),
    lambda: naive.FixedThreshold(float('nan')),
    lambda: naive.ShareOfFullMetric(0.0),
    lambda: naive.ShareOfFullMetric(1.5),
    lambda: make_means(np.zeros(2), grid=np.array([0.9, 0.8])),
    lambda: make_means(np.zeros(2), grid=np.array([1.0, 1.0])),
    lambda: make_means(np.zeros(0), grid=np.array([])),
  ],
)
def test_what_is_refused(make):
  with pytest.raises(errors.ConfigError, match='must'):
    make()
