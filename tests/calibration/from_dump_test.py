"""Calibrating a dump: choices, refusals, and the record that is kept."""

import json

import numpy as np
import pytest
from testing import dumps

from calm_jax import errors
from calm_jax.calibration import (
  betting,
  conformal_risk_control,
  from_dump,
  multiple_testing,
  p_values,
)
from calm_jax.records import contracts, descriptions


def test_calibrates_a_dump_and_the_result_survives_json(tmp_path):
  manifest, dump = dumps.make_dump()
  dumps.write_dump(tmp_path / 'dump', manifest, [dump])
  result = from_dump.calibrate_dump(tmp_path / 'dump', 'textual', 0.2, 0.05)
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
  assert result.p_value == descriptions.describe(betting.StarBets(level=0.05))
  assert result.dump.model.params_digest == 'm'
  contracts.write_json_atomically(tmp_path / 'calibration.json', result)
  again = contracts.read_json(
    tmp_path / 'calibration.json', contracts.CalibrationResult
  )
  assert again == result
  assert (
    json.loads((tmp_path / 'calibration.json').read_text())['threshold'] == 0.5
  )


def test_settings_that_do_not_exist():
  data = dumps.make_dump()
  with pytest.raises(errors.ConfigError, match="Did you mean 'textual'"):
    from_dump.calibrate_dump(data, 'textal', 0.1, 0.05)
  with pytest.raises(errors.ConfigError, match="Did you mean 'chrf'"):
    from_dump.calibrate_dump(data, 'risk', 0.1, 0.05, metric='chrF')


def test_only_texts_generated_at_each_threshold_carry_the_guarantee():
  data = dumps.make_dump(decode_mode='simulated')
  with pytest.raises(errors.DataError, match="decode_mode.*'simulated'"):
    from_dump.calibrate_dump(data, 'risk', 0.1, 0.05)


def never_read(tmp_path):
  """A dump that would fail, if it were opened."""
  return tmp_path / 'nowhere'


def test_settings_are_refused_before_any_file_is_read(tmp_path):
  nowhere = never_read(tmp_path)

  def run(**settings):
    from_dump.calibrate_dump(
      nowhere, **{'consistency': 'risk', 'tolerance': 0.1} | settings
    )

  for settings, message in (
    ({'tolerance': 1.5}, 'tolerance'),
    ({'consistency': 'textal'}, "Did you mean 'textual'"),
    ({'p_value': 'betting_'}, "Did you mean 'betting'"),
    ({'procedure': 'holms'}, "Did you mean 'holm'"),
    ({'metric': 'rouge'}, 'Did you mean'),
    ({'p_value': 'binomial', 'metric': 'chrf'}, 'zero_one'),
    (
      {
        'consistency': 'risk_difference',
        'metric': 'chrf',
        'p_value': 'hoeffding_bentkus',
      },
      r'HoeffdingBentkus.*in \[-1, 1\]; choose one of',
    ),
  ):
    with pytest.raises(errors.ConfigError, match=message):
      run(failure_prob=0.05, **settings)
  with pytest.raises(errors.DataError, match='nowhere'):
    run(failure_prob=0.05)


def test_choices_by_name_or_as_objects():
  data = dumps.make_dump(num_examples=200)
  for p_value, procedure in (
    ('betting', 'holm'),
    (betting.Betting(), multiple_testing.Holm()),
    ('wsr', multiple_testing.Holm()),
  ):
    result = from_dump.calibrate_dump(
      data, 'textual', 0.2, 0.05, p_value=p_value, procedure=procedure
    )
    assert result.threshold == 0.5
    assert result.p_value == descriptions.describe(betting.Betting(level=0.025))
    assert result.procedure.kind == 'Holm'
    assert result.guarantee == contracts.HIGH_PROBABILITY


def test_defaults_hold_for_their_losses():
  data = dumps.make_dump(num_examples=200)
  result = from_dump.calibrate_dump(data, 'risk_difference', 0.2, 0.05)
  assert result.p_value == descriptions.describe(betting.StarBets(level=0.05))
  assert result.threshold == 0.5
  exact = from_dump.calibrate_dump(
    data, 'textual', 0.2, 0.05, metric='exact_match'
  )
  assert exact.p_value.kind == 'Binomial'
  assert exact.grid[1].p_value == pytest.approx(
    p_values.Binomial().from_totals(10.0, 200, 0.2)
  )


def test_improvements_are_recorded_as_negative_losses():
  manifest, dump = dumps.make_dump(num_examples=200)
  dump.predictions[:, 0] = 'Same'  # the full model's output, now worse
  result = from_dump.calibrate_dump(
    (manifest, dump), 'risk_difference', 0.2, 0.05
  )
  assert result.grid[1].mean_loss < -0.1
  fields = json.loads(json.dumps(result.to_json()))
  assert contracts.CalibrationResult.from_json(fields) == result


def test_the_order_of_the_dump_does_not_matter():
  """Not even to betting: a dump sorted by length, or worse, by loss."""
  manifest, dump = dumps.make_dump(num_examples=200)
  results = [
    from_dump.calibrate_dump(
      (manifest, dumps.rows(dump, order)),
      'textual',
      0.2,
      0.05,
      p_value='betting',
    )
    for order in (
      np.arange(200),
      np.argsort(dump.predictions[:, 1]),
      np.argsort(dump.predictions[:, 1])[::-1],
    )
  ]
  assert results[0] == results[1] == results[2]


def own_metric(prediction, reference):
  """As a user's module may have."""
  return 0.5 if prediction == 'qqq' else float(prediction == reference)


def test_a_metric_of_the_users_own():
  name = f'{__name__}:own_metric'
  data = dumps.make_dump(num_examples=200)
  result = from_dump.calibrate_dump(data, 'textual', 0.2, 0.05, metric=name)
  assert result.metric == name
  assert result.grid[1].mean_loss == pytest.approx(0.05 * 0.5)


def test_a_file_cannot_name_a_function_to_import():
  data = dumps.make_dump(metric='os:system')
  with pytest.raises(errors.ConfigError, match="got 'os:system'"):
    from_dump.calibrate_dump(data, 'textual', 0.2, 0.05)


def test_a_grid_that_the_data_cut_short():
  """Holm would divide by a number of thresholds that depends on the losses."""
  data = dumps.make_dump(num_examples=200, stopped='0.1 failed')

  def run(procedure):
    return from_dump.calibrate_dump(
      data, 'textual', 0.2, 0.05, procedure=procedure
    )

  for name in ('holm', 'bonferroni', 'multi_start_fixed_sequence'):
    with pytest.raises(errors.DataError, match='fixed beforehand.*0.1 failed'):
      run(name)
  for name in ('fixed_sequence', 'conformal_risk_control'):
    assert run(name).threshold == 0.5


def test_conformal_risk_control_is_marked_as_weaker():
  result = from_dump.calibrate_dump(
    dumps.make_dump(),
    'textual',
    0.2,
    0.05,
    procedure=conformal_risk_control.ConformalRiskControl(),
  )
  assert result.guarantee == contracts.IN_EXPECTATION
  assert result.reason.startswith('Weaker guarantee')
