"""The whole calibration: decisions, guarantee, power, and from a dump."""

import json
import math

import numpy as np
import pytest
from scipy import stats

from calm_jax import contracts, errors, text_metrics
from calm_jax.calibration import (
  from_dump,
  learn_then_test,
  p_values,
  power,
  risks,
)
from calm_jax.dump import writer

THRESHOLDS = [1.0, 0.9, 0.8, 0.7]


def losses_with_means(n, *means):
  """[n, G] losses of 0 and 1 with exactly these means."""
  rows = np.arange(n)[:, None]
  return (rows < np.round(n * np.array(means))).astype(float)


def test_returns_the_last_certified_threshold_and_the_whole_grid():
  losses = losses_with_means(400, 0, 0.02, 0.05, 0.2)
  outcome = learn_then_test.calibrate(losses, THRESHOLDS, 0.1, 0.05)
  assert outcome.threshold == 0.8
  assert outcome.certified.tolist() == [True, True, True, False]
  np.testing.assert_allclose(outcome.mean_losses, [0, 0.02, 0.05, 0.2])
  expected = [
    p_values.HoeffdingBentkus()(losses[:, g], 0.1) for g in range(1, 4)
  ]
  assert outcome.p_values.tolist() == [0.0, *expected]
  assert '0.8 is the last certified' in outcome.reason
  assert 'at 0.7 the mean loss on 400 examples is 0.2000' in outcome.reason
  assert outcome.warning == ''


def test_stops_at_the_first_failure_even_if_a_later_one_would_pass():
  losses = losses_with_means(400, 0, 0.02, 0.2, 0.02)
  outcome = learn_then_test.calibrate(losses, THRESHOLDS, 0.1, 0.05)
  assert outcome.threshold == 0.9
  assert outcome.certified.tolist() == [True, True, False, False]


def test_nothing_certified_keeps_the_full_model_and_says_why():
  losses = losses_with_means(100, 0, 0.3, 0.4, 0.5)
  outcome = learn_then_test.calibrate(losses, THRESHOLDS, 0.1, 0.05)
  assert outcome.threshold == 1.0
  assert 'No threshold below 1' in outcome.reason
  # Also where the grid does not hold the full model.
  outcome = learn_then_test.calibrate(losses[:, 1:], THRESHOLDS[1:], 0.1, 0.05)
  assert outcome.threshold == 1.0
  # And where there is nothing but it.
  outcome = learn_then_test.calibrate(losses[:, :1], [1.0], 0.1, 0.05)
  assert outcome.threshold == 1.0 and 'end of the grid' in outcome.reason


def test_everything_certified():
  outcome = learn_then_test.calibrate(np.zeros((100, 4)), THRESHOLDS, 0.1, 0.05)
  assert outcome.threshold == 0.7
  assert 'end of the grid' in outcome.reason


def test_guarantee_and_power_by_simulation():
  """Violations are rare, and every risk is reached as often as theory says.

  Losses are 0 or 0.8 and grow as the threshold falls, so a risk is reached
  whenever its own p-value passes: a binomial probability.
  """
  n, tolerance, failure_prob, draws = 300, 0.1, 0.1, 2000
  risk = tolerance + np.arange(-80, 41, 2) / 1000  # of each threshold
  thresholds = np.linspace(0.99, 0.2, len(risk))
  random = np.random.default_rng(0)
  reached = np.zeros((draws, len(risk)), bool)
  for draw in range(draws):
    losses = 0.8 * (random.random((n, 1)) < risk / 0.8)
    reached[draw] = (
      thresholds
      >= learn_then_test.calibrate(
        losses, thresholds, tolerance, failure_prob
      ).threshold
    )
  rates = reached.mean(axis=0)

  counts = np.arange(n + 1)
  p_value = p_values.HoeffdingBentkus()
  passing = p_value.from_totals(0.8 * counts, n, tolerance) <= failure_prob
  expected = stats.binom.cdf(counts[passing].max(), n, risk / 0.8)
  sigma = np.sqrt(expected * (1 - expected) / draws)
  assert np.all(np.abs(rates - expected) <= 4 * sigma + 1e-9)

  violations = rates[risk > tolerance + 1e-9].max()
  limit = failure_prob + 3 * math.sqrt(failure_prob * 0.9 / draws)
  assert 0.005 < violations <= limit
  # Power: half of the tolerance is nearly always reached.
  assert rates[np.isclose(risk, tolerance / 2)] > 0.9


@pytest.mark.parametrize(
  ('name', 'value'),
  [(n, v) for n in ('tolerance', 'failure_prob') for v in (0, 1, -1, 1.5)]
  + [('tolerance', math.nan), ('failure_prob', '0.1'), ('tolerance', True)],
)
def test_a_guarantee_outside_0_1(name, value):
  arguments = {'tolerance': 0.1, 'failure_prob': 0.05, name: value}
  with pytest.raises(errors.ConfigError, match='CALM.*Learn-then-Test') as info:
    learn_then_test.calibrate(np.zeros((50, 4)), THRESHOLDS, **arguments)
  assert info.value.args[0].startswith(name)
  # Before any file is opened.
  with pytest.raises(errors.ConfigError, match=name):
    from_dump.calibrate_dump('/nowhere', 'textual', **arguments)


@pytest.mark.parametrize(
  'thresholds',
  [
    [1.0, 0.8, 0.9, 0.7],
    [1.0, 0.9, 0.9, 0.7],
    [1.1, 0.9, 0.8, 0.7],
    [1.0, 0.9, 0.8, math.nan],
    [1.0, 0.9, 0.8, -0.1],
    [],
  ],
)
def test_thresholds_that_do_not_descend(thresholds):
  with pytest.raises(errors.ConfigError, match='thresholds|Thresholds'):
    learn_then_test.calibrate(np.zeros((50, 4)), thresholds, 0.1, 0.05)


def test_losses_that_are_no_losses():
  ids = [f'id-{i}' for i in range(50)]

  def run(losses):
    learn_then_test.calibrate(losses, THRESHOLDS, 0.1, 0.05, example_ids=ids)

  for bad in (math.nan, math.inf, 1.0001, -0.1):
    losses = np.zeros((50, 4))
    losses[17, 2] = bad
    with pytest.raises(errors.DataError, match='id-17 at grid column 2'):
      run(losses)
  losses = np.zeros((50, 4))
  losses[5, 0] = 0.1
  with pytest.raises(errors.DataError, match='At threshold 1.*id-5'):
    run(losses)
  for shape in ((0, 4), (50, 3), (50,)):
    with pytest.raises(errors.DataError, match='must have shape'):
      run(np.zeros(shape))


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


def test_a_sample_too_small_is_warned_of():
  for n, warns in ((28, True), (29, False)):
    outcome = learn_then_test.calibrate(np.zeros((n, 4)), THRESHOLDS, 0.1, 0.05)
    assert (outcome.threshold == 1.0) == warns
    assert ('at least 29 examples' in outcome.warning) == warns


def test_an_impossible_tolerance_keeps_the_full_model():
  outcome = learn_then_test.calibrate(np.zeros((50, 4)), THRESHOLDS, 1e-8, 0.05)
  assert outcome.threshold == 1.0
  assert 'can never certify a tolerance of 1e-08' in outcome.warning


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


def make_dump(num_examples=60, **fields):
  """At 0.5 one example in 20 differs from the full model; at 0.1 all do."""
  shape = (num_examples, 3, 2)
  layers = np.broadcast_to(np.array([4, 2, 1])[:, None], shape).astype(np.int8)
  texts = np.array([['Same text.', 'Same text.', '###']] * num_examples)
  texts[::20, 1] = 'qqq'
  manifest = contracts.Manifest(
    **{
      'task': 'docstring_restoration',
      'split': 'calibration',
      'metric': 'chrf',
      'thresholds': (1.0, 0.5, 0.1),
      'num_decoder_layers': 4,
      'max_decode_length': 2,
      'measure': 'SoftmaxTopTwoGap()',
      'threshold_schedule': 'ConstantThreshold()',
      'model_digest': 'm',
      'config_digest': 'c',
      'data_digest': 'd',
    }
    | fields
  )
  return manifest, contracts.Dump(
    example_ids=np.array([f'id-{i}' for i in range(num_examples)]),
    sources=np.array(['same text'] * num_examples),
    references=np.array(['Same text.'] * num_examples),
    predictions=texts,
    tokens=np.full(shape, 3, np.int32),
    num_layers_used=layers,
    confidences=np.full(shape, 0.5, np.float32),
    trace_confidences=np.zeros((num_examples, 2, 4), np.float32),
    trace_tokens=np.full((num_examples, 2, 4), 3, np.int32),
  )


def test_calibrates_a_dump_and_the_result_survives_json(tmp_path):
  manifest, dump = make_dump()
  writer.write_dump(tmp_path / 'dump', manifest, [dump])
  result = from_dump.calibrate_dump(
    tmp_path / 'dump', 'textual', 0.2, 0.05
  )
  assert result == from_dump.calibrate_dump(
    (manifest, dump), 'textual', 0.2, 0.05, metric='chrf'
  )
  assert result.threshold == 0.5
  assert [point.certified for point in result.grid] == [True, True, False]
  assert [point.mean_layers for point in result.grid] == [4.0, 2.0, 1.0]
  np.testing.assert_allclose(
    [point.mean_metric for point in result.grid], [1.0, 0.95, 0.0]
  )
  np.testing.assert_allclose(
    [point.mean_loss for point in result.grid], [0.0, 0.05, 1.0]
  )
  assert result.metric == 'chrf'
  assert result.p_value == 'HoeffdingBentkus()'
  assert result.dump['model_digest'] == 'm'
  contracts.write_json_atomically(tmp_path / 'calibration.json', result)
  again = contracts.read_json(
    tmp_path / 'calibration.json', contracts.CalibrationResult
  )
  assert again == result
  assert (
    json.loads((tmp_path / 'calibration.json').read_text())['threshold'] == 0.5
  )


def test_settings_that_do_not_exist():
  data = make_dump()
  with pytest.raises(errors.ConfigError, match="Did you mean 'textual'"):
    from_dump.calibrate_dump(data, 'textal', 0.1, 0.05)
  with pytest.raises(errors.ConfigError, match="Did you mean 'chrf'"):
    from_dump.calibrate_dump(data, 'risk', 0.1, 0.05, metric='chrF')


def test_only_texts_generated_at_each_threshold_carry_the_guarantee():
  data = make_dump(decode_mode='simulated')
  with pytest.raises(errors.DataError, match="decode_mode.*'simulated'"):
    from_dump.calibrate_dump(data, 'risk', 0.1, 0.05)
