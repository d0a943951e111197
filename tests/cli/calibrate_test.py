"""`calm calibrate`: the choices it takes, and what it prints."""

import pytest

from calm_jax.records import contracts

NUMBER = 3


def perfect(prediction, reference):
  """A metric of the user's own."""
  return 0.9 if prediction == 'qqq' else float(prediction == reference)


def test_names_and_what_is_printed(run_calibrate, calibrated_result):
  code, out, _ = run_calibrate(
    '--tolerance=0.2',
    '--p_value=betting',
    '--procedure=holm',
    '--consistency=risk_difference',
  )
  assert code == 0
  assert calibrated_result().consistency == 'risk_difference'
  for line in ('threshold     0.5', 'p-value       Betting(', 'Holm()'):
    assert line in out


@pytest.mark.parametrize(
  ('flag', 'message'),
  [
    ('--p_value=beting', "Did you mean 'betting'?"),
    ('--procedure=bonferoni', "Did you mean 'bonferroni'?"),
    ('--consistency=risk_diff', "Did you mean 'risk_difference'?"),
    ('--metric=rouge1', "Did you mean 'rouge_1'?"),
    ('--p_value=binomial', 'holds for losses that are 0 or 1'),
    ('--metric=no_such_package.module:function', 'PYTHONPATH'),
    ('--metric=tests.cli.calibrate_test:perfekt', "Did you mean 'perfect'?"),
    ('--metric=tests.cli.calibrate_test:pytest', 'must name a function'),
    ('--metric=tests.cli.calibrate_test:NUMBER', 'must'),
    ('--metric=os.path:basename', 'must take two texts'),
    ('--gin.P_VALUE=3', 'P_VALUE must be of type str'),
  ],
)
def test_unknown_choices(run_calibrate, flag, message):
  code, _, error = run_calibrate(flag)
  assert code == 2 and message in error


def test_a_bound_for_0_to_1_and_an_unclipped_risk(run_calibrate):
  code, _, error = run_calibrate(
    '--consistency=risk_difference', '--p_value=hoeffding_bentkus'
  )
  assert code == 2 and 'in [-1, 1]; choose one of' in error


def test_a_metric_of_the_users_own(run_calibrate, calibrated_result):
  code, _, _ = run_calibrate(
    '--metric=tests.cli.calibrate_test:perfect', '--tolerance=0.2'
  )
  assert code == 0
  assert calibrated_result().metric == 'tests.cli.calibrate_test:perfect'
  assert calibrated_result().grid[1].mean_loss == pytest.approx(0.05 * 0.1)


def test_objects_with_knobs_from_gin(
  run_calibrate, calibrated_result, tmp_path
):
  path = tmp_path / 'choices.gin'
  path.write_text(
    'from __gin__ import dynamic_registration\n'
    'from calm_jax.calibration import betting\n'
    'from calm_jax.calibration import multiple_testing\n'
    'P_VALUE = @betting.Betting()\n'
    'betting.Betting.level = 0.0125\n'
    'PROCEDURE = @multiple_testing.MultiStartFixedSequence()\n'
    'multiple_testing.MultiStartFixedSequence.num_starts = 2\n'
    'TOLERANCE = 0.2\n'
  )
  code, _, error = run_calibrate(f'--gin_file={path}')
  assert code == 0, error
  assert calibrated_result().p_value.knobs['level'] == 0.0125
  procedure = calibrated_result().procedure
  assert str(procedure) == 'MultiStartFixedSequence(num_starts=2)'


def test_the_weaker_guarantee_is_printed_as_such(
  run_calibrate, calibrated_result
):
  code, out, _ = run_calibrate(
    '--procedure=conformal_risk_control', '--tolerance=0.2'
  )
  assert code == 0
  assert calibrated_result().guarantee == contracts.IN_EXPECTATION
  assert 'Weaker guarantee' in out
  assert 'failure_prob  none: the guarantee is on average' in out
