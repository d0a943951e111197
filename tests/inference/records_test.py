"""A line of inference: T5X's keys, whole arrays, strict JSON in UTF-8."""

import json
import math

import pytest

from calm_jax import errors
from calm_jax.data import corpus
from calm_jax.decode import generation
from calm_jax.inference import records

EXAMPLE = corpus.Example('id', 'restore: a caf\u00e9', 'A caf\u00e9.')


def output(text='A caf\u00e9.', length=2, **changes):
  fields = {
    'text': text,
    'pieces': ('a',) * length,
    'tokens': tuple(range(2, length + 2)),
    'num_layers_used': (1,) * length,
    'confidences': (0.5,) * length,
    'log_prob': -0.25,
  }
  return generation.Generation(**(fields | changes))


def parsed(line):
  def refuse(name):
    raise AssertionError(f'{name} is no JSON')

  return json.loads(line.decode('utf-8'), parse_constant=refuse)


def test_keys_are_t5xs():
  assert parsed(records.line(EXAMPLE, [output()], 'predict_with_aux')) == {
    'inputs': {
      'inputs_pretokenized': 'restore: a caf\u00e9',
      'targets_pretokenized': 'A caf\u00e9.',
    },
    'prediction': 'A caf\u00e9.',
    'prediction_tokens': [2, 3],
    'aux': {'scores': -0.25, 'exits': [1, 1], 'confidences': [0.5, 0.5]},
  }


def test_predict_holds_the_text_alone():
  example = corpus.Example('1', 'a', '')
  assert parsed(records.line(example, [output()], 'predict')) == {
    'inputs': {'inputs_pretokenized': 'a'},
    'prediction': 'A caf\u00e9.',
  }


def test_score_holds_no_prediction():
  found = parsed(records.line(EXAMPLE, [output('')], 'score'))
  assert found.keys() == {'inputs', 'score'} and found['score'] == -0.25


def test_arrays_are_whole():
  """seqio's encoder writes a summary of what is longer than 32."""
  found = parsed(
    records.line(EXAMPLE, [output(length=500)], 'predict_with_aux')
  )
  assert found['aux']['exits'] == [1] * 500
  assert len(found['aux']['confidences']) == 500


@pytest.mark.parametrize(
  'text', ['caf\u00e9', '\U0001f600', 'a\u2028b\x85c', 'a"\\\n\x00\x1b[2J']
)
def test_any_text_is_one_line_of_utf8(text):
  line = records.line(EXAMPLE, [output(text)], 'predict')
  assert line.endswith(b'\n') and line.count(b'\n') == 1
  assert parsed(line)['prediction'] == text
  if text.isprintable():
    assert text.encode('utf-8') in line, 'readable, not escaped'


@pytest.mark.parametrize('value', [math.nan, math.inf, -math.inf])
def test_fault_63_no_bare_nan(value):
  odd = output(confidences=(0.5, value))
  aux = parsed(records.line(EXAMPLE, [odd], 'predict_with_aux'))['aux']
  assert aux['confidences'] == [0.5, None]
  assert aux['not_finite'] == ['confidences']
  odd = output(log_prob=value)
  aux = parsed(records.line(EXAMPLE, [odd], 'predict_with_aux'))['aux']
  assert aux['scores'] is None and aux['not_finite'] == ['scores']


def test_of_many_the_best_is_last_as_t5xs():
  outputs = [output('best', 1), output('second', 2, log_prob=-9.0)]
  found = parsed(records.line(EXAMPLE, outputs, 'predict_with_aux', many=True))
  assert found['prediction'] == ['second', 'best']
  assert found['aux']['scores'] == [-9.0, -0.25]
  assert found['aux']['exits'] == [[1, 1], [1]]
  # A search may find one output where several were asked for.
  line = records.line(EXAMPLE, outputs[:1], 'predict', many=True)
  assert parsed(line)['prediction'] == ['best']


def test_unknown_mode():
  with pytest.raises(errors.ConfigError, match="Did you mean 'predict'"):
    records.check_mode('predictt')
