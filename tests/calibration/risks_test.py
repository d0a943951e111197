"""Losses from texts: what they are, and which numbers are no losses."""

import functools
import math

import numpy as np
import pytest

from calm_jax import errors
from calm_jax.calibration import (
  betting,
  choices,
  loss_ranges,
  p_values,
  risks,
)
from calm_jax.metrics import text_metrics

PREDICTIONS = np.array(
  [
    # The first column is the full model's.
    ['The end.', 'The end.', 'the end'],
    ['A cat', 'A cat', 'A dog'],
    ['wrong', 'right', 'right'],
  ]
)
REFERENCES = np.array(['The end.', 'A cow', 'right'])


def test_textual_loss_compares_with_the_full_model():
  losses = risks.TextualConsistency(text_metrics.exact_match).losses(
    PREDICTIONS, REFERENCES
  )
  assert losses.tolist() == [[0, 0, 1], [0, 0, 1], [0, 1, 1]]
  losses = risks.TextualConsistency(text_metrics.chrf).losses(
    PREDICTIONS, REFERENCES
  )
  assert losses[0, 2] == 1 - text_metrics.chrf('the end', 'The end.')
  assert not losses[:, 0].any()


def test_risk_loss_clips_each_example_before_any_mean():
  losses = risks.RiskConsistency(text_metrics.exact_match).losses(
    PREDICTIONS, REFERENCES
  )
  # The third example improves; that must not pay for the first.
  assert losses.tolist() == [[0, 0, 1], [0, 0, 0], [0, 0, 0]]


def test_a_metric_outside_0_1_is_named_with_the_example():
  def percent(prediction, reference):
    return 100.0 * (prediction == reference)

  ids = ['a', 'b', 'c']
  for kind in (risks.TextualConsistency, risks.RiskConsistency):
    with pytest.raises(errors.DataError, match='percent .*100.0 of example a'):
      kind(percent).losses(PREDICTIONS, REFERENCES, ids)


def test_the_risk_difference_keeps_what_was_won():
  kind = risks.RiskDifference(text_metrics.exact_match)
  losses = kind.losses(PREDICTIONS, REFERENCES)
  assert losses.tolist() == [[0, 0, 1], [0, 0, 0], [0, -1, -1]]
  # Clipped per example it is the risk; its mean is never the larger one.
  risk = risks.RiskConsistency(text_metrics.exact_match)
  clipped = risk.losses(PREDICTIONS, REFERENCES)
  assert np.array_equal(np.maximum(losses, 0), clipped)


@pytest.mark.parametrize(
  ('kind', 'metric', 'expected'),
  [
    ('textual', 'chrf', loss_ranges.UNIT),
    ('risk', 'rouge_l', loss_ranges.UNIT),
    ('textual', 'exact_match', loss_ranges.ZERO_OR_ONE),
    ('risk', 'exact_match', loss_ranges.ZERO_OR_ONE),
    ('risk_difference', 'chrf', loss_ranges.SIGNED_UNIT),
    ('risk_difference', 'exact_match', loss_ranges.SIGNED_UNIT),
  ],
)
def test_each_risk_declares_its_range(kind, metric, expected):
  # The cache around the metric must not hide what it declares.
  compare = functools.cache(text_metrics.METRICS[metric])
  objective = risks.get_consistency(kind)(compare)
  assert objective.loss_range == expected
  expected.checked(objective.losses(PREDICTIONS, REFERENCES))


def test_which_p_values_hold_for_which_losses():
  def valid(loss_range):
    return {
      name
      for name, p_value in choices.P_VALUES.items()
      if p_value.accepts.includes(loss_range)
    }

  everywhere = set(choices.P_VALUES)
  signed = {'betting', 'star_bets'} | {
    n for n in everywhere if n.startswith('rescaled')
  }
  assert valid(loss_ranges.ZERO_OR_ONE) == everywhere
  assert valid(loss_ranges.UNIT) == everywhere - {'binomial'}
  assert valid(loss_ranges.SIGNED_UNIT) == signed
  assert valid(loss_ranges.AT_MOST_ONE) == {'betting', 'star_bets'}
  for loss_range in (loss_ranges.UNIT, loss_ranges.SIGNED_UNIT):
    assert choices.default_p_value(loss_range) == betting.StarBets()
  exact = choices.default_p_value(loss_ranges.ZERO_OR_ONE)
  assert exact == p_values.Binomial()


def test_a_metric_that_scores_many_at_once_is_asked_so():
  asked = []

  def metric(prediction, reference):
    raise AssertionError('not one by one')

  def many(predictions, reference):
    asked.append((predictions, reference))
    return np.array([len(text) / 10 for text in predictions])

  metric.many = many
  scores = risks.score(metric, PREDICTIONS, REFERENCES)
  assert scores[0].tolist() == [0.8, 0.8, 0.7]
  # Each text once, though it stands at two thresholds.
  assert asked[0] == (['The end.', 'the end'], 'The end.')


@pytest.mark.parametrize(
  ('answer', 'message'),
  [
    ('good', 'own failed on example b: ValueError'),
    (ZeroDivisionError(), 'own failed on example b: ZeroDivisionError'),
    (None, 'Scores of own must be finite .* nan of example b'),
    (math.nan, 'Scores of own must be finite .* nan of example b'),
    (-0.5, r'in \[0, 1\], .* -0.5 of example b'),
  ],
)
def test_a_metric_that_fails_is_named_with_the_example(answer, message):
  def own(prediction, reference):
    if reference != 'A cow':
      return 1.0
    if isinstance(answer, Exception):
      raise answer
    return answer

  with pytest.raises(errors.DataError, match=message):
    risks.score(own, PREDICTIONS, REFERENCES, ['a', 'b', 'c'])
