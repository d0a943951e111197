"""What callers may hand over, and one sentence for everything else.

Every public function of the room, with every kind of bad argument: nothing but
a CalmError may come out, and nothing may be taken in silence.
"""

import fractions

import jax.numpy as jnp
import numpy as np
import pytest

from calm_jax import calibration, errors
from calm_jax.calibration import (
  arrays,
  choices,
  conformal_risk_control,
  loss_ranges,
  multiple_testing,
  threshold_selection,
)

THRESHOLDS = [1.0, 0.5]
LOSSES = np.array([[0.0, 0.1], [0.0, 0.0], [0.0, 0.2]] * 30)
FUNCTIONS = {
  **{name: p_value for name, p_value in choices.P_VALUES.items()},
  'calibrate': lambda losses, tolerance: calibration.calibrate(
    losses, THRESHOLDS, tolerance, 0.05
  ),
  'conformal_risk_control': conformal_risk_control.ConformalRiskControl(),
}
MASKED = np.ma.masked_array(LOSSES, LOSSES == 0.2)
NO_LOSSES = {
  'text': 'losses',
  'strings': [['0.0', '0.1']] * 90,
  'ragged': [[0.0, 0.1], [0.0]],
  'none': None,
  'objects': [[0.0, None]] * 90,
  'complex': LOSSES + 0.1j,
  'masked': MASKED,
  'too large': LOSSES + 1.1,
  'not a number': np.where(LOSSES == 0.2, np.nan, LOSSES),
  'dates': LOSSES.astype('datetime64[s]'),
}


@pytest.mark.parametrize('function', FUNCTIONS)
@pytest.mark.parametrize('losses', NO_LOSSES)
def test_no_losses(function, losses):
  with pytest.raises(errors.DataError, match='[Ll]oss'):
    FUNCTIONS[function](NO_LOSSES[losses], 0.3)


@pytest.mark.parametrize('function', FUNCTIONS)
@pytest.mark.parametrize('tolerance', [1.5, 1.0, np.nan, '0.1', None, -1.5])
def test_no_tolerance(function, tolerance):
  """Where nothing or everything would be certified, or nan come out."""
  if tolerance == -1.5 and 'bet' in function:
    pytest.skip('a promise to be better by more than any loss in [-1, 1]')
  losses = np.zeros((90, 2))
  with pytest.raises(errors.ConfigError, match='olerance'):
    FUNCTIONS[function](losses, tolerance)


@pytest.mark.parametrize('name', ['hoeffding', 'binomial', 'hoeffding_bentkus'])
def test_no_tolerance_of_sums(name):
  with pytest.raises(errors.ConfigError, match='olerance'):
    choices.P_VALUES[name].from_totals(np.array([3]), 10, 1.5)


@pytest.mark.parametrize('name', choices.PROCEDURES)
@pytest.mark.parametrize('failure_prob', [2, 0, 1, -0.1, np.nan, None, '0.05'])
def test_no_failure_probability(name, failure_prob):
  """FixedSequence()(p, 2) would certify everything."""
  procedure = choices.PROCEDURES[name]
  if isinstance(procedure, multiple_testing.MultipleTesting):
    with pytest.raises(errors.ConfigError, match='failure_prob'):
      procedure(np.array([0.1, 0.2]), failure_prob)


@pytest.mark.parametrize(
  'p_values', ['text', [[0.1], [0.1, 0.2]], [None], MASKED, 0.1, [1.1]]
)
def test_no_p_values(p_values):
  with pytest.raises(errors.DataError, match='p-values'):
    multiple_testing.Holm()(p_values, 0.05)


def run(**arguments):
  return threshold_selection.calibrate(
    **{
      'losses': LOSSES,
      'thresholds': THRESHOLDS,
      'tolerance': 0.3,
      'failure_prob': 0.05,
      **arguments,
    }
  )


def test_choices_by_name_are_those_objects():
  for name in ('betting', 'hb', 'calm', 'star'):
    by_name = run(p_value=name)
    as_object = run(p_value=choices.get_p_value(name))
    assert by_name.p_value == as_object.p_value
    assert np.array_equal(by_name.p_values, as_object.p_values)
  assert run(procedure='holm').threshold == 0.5
  assert run(procedure='crc').reason.startswith('Weaker')


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    ({'p_value': calibration.Betting}, r'class Betting; write Betting\(\)'),
    ({'procedure': calibration.Holm}, r'class Holm; write Holm\(\)'),
    ({'p_value': 'beting'}, 'betting'),
    ({'procedure': 'hollm'}, 'holm'),
    ({'p_value': 0.05}, 'must be one of'),
    ({'p_value': ['betting']}, 'must be one of'),
    ({'procedure': 5}, 'must be one of'),
    ({'thresholds': ['high', 'low']}, 'Thresholds must be numbers'),
    ({'thresholds': [[1.0], [0.5, 0.4]]}, 'Thresholds must be numbers'),
    ({'tolerance': [0.1]}, 'tolerance'),
  ],
)
def test_no_such_choice(arguments, message):
  with pytest.raises(errors.ConfigError, match=message):
    run(**arguments)


def test_example_ids_are_one_for_each_example():
  """Also where a loss is wrong whose id is not there."""
  losses = LOSSES.copy()
  losses[80, 1] = np.nan
  for wrong in (LOSSES, losses):
    with pytest.raises(errors.DataError, match='id for each of 90.*got 2'):
      run(losses=wrong, example_ids=['a', 'b'])


def test_rounding_at_the_borders_is_no_loss_outside():
  """1 minus a cosine, or a difference of two equal sums, misses by an ulp."""
  above, below = 1.0000000000000002, -2.2e-16
  losses = np.array([[below, above], [1 - above, 0.0], [2e-16, below]] * 20)
  for p_value in choices.P_VALUES.values():
    rounded = np.round(losses)
    np.testing.assert_allclose(p_value(losses, 0.2), p_value(rounded, 0.2))
  outcome = run(losses=losses)
  assert outcome.mean_losses[0] == 0.0
  assert loss_ranges.UNIT.checked([above, below]).tolist() == [1.0, 0.0]
  # What is beyond rounding is told.
  with pytest.raises(errors.DataError, match='1.00001'):
    loss_ranges.UNIT.checked([1.00001])


def test_cosines_are_scores():
  from calm_jax.calibration import risks

  vectors = np.random.default_rng(0).normal(size=(400, 5)).astype(np.float64)

  def cosine(prediction, reference):
    a, b = (np.array(eval(text)) for text in (prediction, reference))
    return float(a / np.sqrt(a @ a) @ (b / np.sqrt(b @ b)))

  texts = np.array([str(vector.tolist()) for vector in vectors])
  scores = [cosine(text, text) for text in texts]
  assert max(scores) > 1.0
  losses = risks.TextualConsistency(cosine).losses(texts[:, None], texts)
  assert np.all(losses >= 0.0) and losses.max() < 1e-9


def test_conformal_risk_control_takes_improvements_without_a_p_value():
  losses = LOSSES - np.array([0.0, 0.05])
  assert losses.min() < 0.0
  assert run(losses=losses, procedure='crc').threshold == 0.5
  with pytest.raises(errors.DataError, match=r'in \[0, 1\]'):
    run(losses=losses)


def test_losses_of_bool_are_0_or_1_and_tested_exactly():
  lost = np.arange(180).reshape(90, 2) % 2 == 1
  lost[5:] = False
  assert run(losses=lost).p_value == calibration.Binomial()
  assert run(losses=lost.astype(float)).p_value == calibration.StarBets(
    level=0.05
  )


@pytest.mark.parametrize(
  'values',
  [
    [0, 1],
    np.array([0, 1], np.int8),
    np.array([False, True]),
    jnp.array([0.0, 1.0], jnp.bfloat16),
    np.ma.masked_array([0.0, 1.0]),
    (np.float32(0), 1),
  ],
)
def test_numbers_of_any_type(values):
  got = arrays.numbers(values, 'These')
  assert got.dtype == np.float64 and got.tolist() == [0.0, 1.0]
  assert type(got) is np.ndarray


def test_fractions_are_told():
  with pytest.raises(errors.DataError, match='numbers in rows'):
    arrays.numbers([fractions.Fraction(1, 2)], 'These')
