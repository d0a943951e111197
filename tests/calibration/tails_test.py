"""Promises about the worst texts, and about being no worse."""

import math

import numpy as np
import pytest
from scipy import stats

from calm_jax import calibration, errors
from calm_jax.calibration import loss_ranges, risks, tails


def test_a_share_of_texts_is_a_mean_of_coins_tested_exactly():
  losses = np.random.default_rng(0).random((300, 2)) * [0.0, 0.22]
  share = np.mean(losses[:, 1] > 0.2)
  outcome = calibration.calibrate(
    calibration.loses_more_than(losses, 0.2), [1.0, 0.5], 0.15, 0.05
  )
  assert outcome.p_value == calibration.Binomial()
  assert outcome.mean_losses[1] == share
  exact = stats.binom.cdf(round(300 * share), 300, 0.15)
  assert outcome.p_values[1] == pytest.approx(exact)


def test_the_mean_of_the_worst_is_bounded_by_the_bound_of_what_is_beyond():
  """On any sample, by sorting: the mean of the worst tenth is at most d where
  the mean of the transformed losses is at most their tolerance."""
  random = np.random.default_rng(1)
  for _ in range(200):
    losses = random.random(100) ** random.integers(1, 9)
    cutoff, share = random.random() * 0.5, 0.1
    worst = np.sort(losses)[-10:].mean()
    tolerance = cutoff + (1 - cutoff) * random.random() * 0.999 + 1e-6
    beyond, bound = calibration.mean_of_worst(losses, tolerance, share, cutoff)
    loss_ranges.UNIT.checked(beyond)
    if beyond.mean() <= bound:
      assert worst <= tolerance + 1e-12
    # Tight where the cutoff is the quantile.
    cutoff = np.sort(losses)[-11]
    if worst + 1e-9 < 1:
      beyond, bound = calibration.mean_of_worst(
        losses, worst + 1e-9, share, cutoff
      )
      assert beyond.mean() == pytest.approx(bound, abs=1e-8)


def test_the_mean_of_the_worst_keeps_the_promise():
  """Of Beta losses whose worst tenth has a known mean, at the tolerance."""
  cutoff = stats.beta.ppf(0.9, 0.5, 4.5)
  worst = 10 * stats.beta.expect(lambda x: x, (0.5, 4.5), lb=cutoff)
  draws, n, failure_prob = 1500, 200, 0.1
  losses = np.random.default_rng(2).beta(0.5, 4.5, (n, draws))
  beyond, bound = tails.mean_of_worst(losses, worst, 0.1, cutoff)
  values = calibration.StarBets(level=failure_prob)(beyond, bound)
  sigma = math.sqrt(failure_prob * (1 - failure_prob) / draws)
  assert np.mean(values <= failure_prob) <= failure_prob + 3 * sigma
  easier, bound = tails.mean_of_worst(losses, worst * 1.6, 0.1, cutoff)
  values = calibration.StarBets(level=failure_prob)(easier, bound)
  assert np.mean(values <= failure_prob) > 0.5


@pytest.mark.parametrize(
  'numbers', [(0.1, 0.1, 0.2), (0.3, 0, 0.1), (1, 0.1, 0), (0.3, math.nan, 0.1)]
)
def test_no_such_tail(numbers):
  with pytest.raises(errors.ConfigError, match='worst texts'):
    tails.mean_of_worst(np.zeros(3), *numbers)
  with pytest.raises(errors.ConfigError, match='limit'):
    tails.loses_more_than(np.zeros(3), 1.0)
  with pytest.raises(errors.DataError):
    tails.loses_more_than(['much'], 0.5)


def run(losses, tolerance):
  return calibration.calibrate(
    losses, [1.0, 0.5], tolerance, 0.05, loss_range=loss_ranges.SIGNED_UNIT
  )


def test_no_worse_than_the_full_model():
  random = np.random.default_rng(3)
  better = np.zeros((400, 2))
  better[:, 1] = random.choice([-0.4, 0.0, 0.1], 400, p=[0.3, 0.5, 0.2])
  assert run(better, 0.0).threshold == 0.5
  same = better - better.mean(axis=0)
  outcome = run(same, 0.0)
  assert outcome.threshold == 1.0 and 'No threshold below 1' in outcome.reason


def test_no_worse_keeps_the_promise():
  draws, n, level = 3000, 120, 0.05
  losses = np.random.default_rng(4).choice([-1.0, 0.0, 1.0], (n, draws))
  for kind in (calibration.StarBets, calibration.Betting):
    values = kind(level=level)(losses, 0.0)
    sigma = math.sqrt(level * (1 - level) / draws)
    assert np.mean(values <= level) <= level + 3 * sigma


def test_below_0_the_full_model_itself_breaks_the_promise():
  losses = np.zeros((300, 2))
  outcome = run(losses, -0.05)
  assert outcome.threshold is None and not outcome.certified.any()
  assert 'Nothing is certified: the full model' in outcome.reason
  losses[:, 1] = -0.2
  assert run(losses, -0.05).threshold == 0.5
  # Where no loss can be negative it is no promise at all.
  with pytest.raises(errors.ConfigError, match=r'in \(0, 1\)'):
    calibration.calibrate(losses, [1.0, 0.5], 0.0, 0.05)


def test_a_share_of_texts_by_name():
  kind = risks.get_consistency('textual>0.2')
  objective = kind(lambda prediction, reference: 0.75 if prediction else 0.9)
  assert objective.name == 'textual>0.2'
  assert objective.loss_range is loss_ranges.ZERO_OR_ONE
  texts = np.array([['a', 'a', ''], ['', '', 'b']])
  losses = objective.losses(texts, np.array(['', '']))
  assert losses.tolist() == [[1, 1, 0], [0, 0, 1]]
  for wrong in ('textual>1', 'textual>x', 'textual>-0.1', 'textal>0.2'):
    with pytest.raises(errors.ConfigError):
      risks.get_consistency(wrong)
