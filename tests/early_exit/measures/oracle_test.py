"""The oracle against plain Python, and against the trace."""

import functools

import jax
import numpy as np
from testing import plain_python, tiny_t5

from calm_jax.decode import request as request_lib
from calm_jax.early_exit.engine import schedule
from calm_jax.early_exit.measures import oracle, softmax


@functools.cache
def _compiled(measure, trace=False, exit_layers=None):
  model, params = tiny_t5.tiny_model(
    measure, exit_layers=exit_layers or schedule.ExitLayers()
  )
  generate = jax.jit(
    functools.partial(
      tiny_t5.generate,
      model,
      max_decode_length=plain_python.LENGTH,
      trace=trace,
    )
  )
  return model, params, generate


def _generate(sources, threshold, *args, measure=None, **kwargs):
  measure = measure or oracle.Oracle()
  _, params, generate = _compiled(measure, *args, **kwargs)
  thresholds = np.full(len(sources), threshold, np.float32)
  return jax.device_get(generate(params, sources, thresholds))


def test_oracle_equals_plain_python():
  sources = tiny_t5.sources(3)
  result = _generate(sources, 0.5, trace=True)
  model, params, _ = _compiled(oracle.Oracle(), True)
  used = result.num_layers_used[result.num_layers_used > 0]
  assert len(np.unique(used)) > 1, 'the test needs mixed exits'
  for row, source in enumerate(sources):
    plain = plain_python.PlainPython(model, params, source)
    previous = 0
    for position in range(plain_python.LENGTH):
      previous, layer, best = plain.oracle_token(previous, position)
      assert result.tokens[row, position] == previous
      assert result.num_layers_used[row, position] == layer
      assert result.trace_tokens[row, position].tolist() == best
      if previous == request_lib.EOS_ID:
        break


def test_threshold_one_is_the_full_model():
  sources = tiny_t5.sources(3)
  result = _generate(sources, 1.0, trace=True)
  full = _generate(sources, 1.0, measure=softmax.SoftmaxTopTwoGap())
  np.testing.assert_array_equal(result.tokens, full.tokens)
  np.testing.assert_array_equal(result.num_layers_used, full.num_layers_used)


def test_oracle_leaves_at_exits_only():
  layers = schedule.ExitLayers(first_exit=2, exit_interval=2)
  result = _generate(tiny_t5.sources(3), 0.5, True, layers)
  rows = result.num_layers_used > 0
  assert set(result.num_layers_used[rows]) == {2, 4}
  agrees = result.trace_tokens[rows][:, 1] == result.trace_tokens[rows][:, 3]
  np.testing.assert_array_equal(
    result.num_layers_used[rows], np.where(agrees, 2, 4)
  )


def test_true_cache_layers_by_hand():
  trace = np.array([[[5, 7, 7], [4, 4, 4], [6, 7, 6], [-1, -1, -1]]])
  assert oracle.true_cache_layers(trace).tolist() == [[2, 1, 1, 0]]
