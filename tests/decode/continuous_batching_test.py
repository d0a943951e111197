"""A queue through a few slots gives what one batch of all of it gives."""

import functools

import jax
import numpy as np
import pytest
from testing import plain_python, tiny_t5

from calm_jax.decode import continuous_batching, lengths
from calm_jax.early_exit.engine import sampling, true_states
from calm_jax.early_exit.measures import (
  classifier_confidence,
  oracle,
  softmax,
  top_k,
)

LENGTH = plain_python.LENGTH
COUNT = 11
SOURCES = tiny_t5.sources(COUNT)
THRESHOLDS = np.float32(np.resize([1.0, 0.1, 0.3, 0.5, 0.7], COUNT))
SEEDS = np.arange(COUNT, dtype=np.uint32)


def _both(measure, batch_size, sampler=None, **choices):
  """Results of the queue in its order, and of one batch."""
  model, params = tiny_t5.tiny_model(
    measure,
    rows_per_pack=(2,),
    # Outputs of many lengths.
    output_length=lengths.ProportionalLength(ratio=2.0),
    **choices,
  )
  drawing = {'decode_fn': sampler, 'seeds': SEEDS} if sampler else {}
  generate = jax.jit(
    functools.partial(
      tiny_t5.generate, model, max_decode_length=LENGTH, **drawing
    )
  )
  whole = jax.device_get(generate(params, SOURCES, THRESHOLDS))
  batch = continuous_batching.ContinuousBatch(model, batch_size)
  request = model.request(
    SOURCES, THRESHOLDS, max_decode_length=LENGTH, **drawing
  )
  found = list(batch.run(params, model.prepare(params), request))
  assert sorted(number for number, _ in found) == list(range(COUNT))
  return [result for _, result in sorted(found, key=lambda x: x[0])], whole


@pytest.mark.parametrize(
  'measure, batch_size, sampler',
  [
    (softmax.SoftmaxTopTwoGap(), 4, None),
    (top_k.TopKPropagation(k=(9, 5)), 9, sampling.Sampler(temperature=1.0)),
    (
      classifier_confidence.ClassifierConfidence(tiny_t5.CLASSIFIERS[2]),
      3,
      None,
    ),
  ],
  ids=lambda x: type(x).__name__,
)
def test_refilled_rows_equal_one_batch(measure, batch_size, sampler):
  _check(*_both(measure, batch_size, sampler))


def test_what_refilled_rows_owe_is_run_for_their_own_sequence():
  measure = classifier_confidence.ClassifierConfidence(tiny_t5.CLASSIFIERS[2])
  _check(*_both(measure, 3, skipped_layers=true_states.TrueStates()))


def _check(results, whole):
  used = whole.num_layers_used
  lengths = (used > 0).sum(axis=1)
  assert len(set(lengths)) > 3, 'sequences must end at different times'
  assert len(set(used[used > 0].tolist())) > 2, 'exits must differ'
  for i, result in enumerate(results):
    for name in ('tokens', 'num_layers_used', 'num_undefined'):
      np.testing.assert_array_equal(
        getattr(result, name), getattr(whole, name)[i]
      )
    for name in ('confidences', 'log_probs'):
      np.testing.assert_allclose(
        getattr(result, name), getattr(whole, name)[i], rtol=1e-4, atol=1e-4
      )


def test_the_oracle_is_refilled_too():
  results, whole = _both(oracle.Oracle(), 4)
  for i, result in enumerate(results):
    np.testing.assert_array_equal(result.tokens, whole.tokens[i])
    np.testing.assert_array_equal(
      result.num_layers_used, whole.num_layers_used[i]
    )


def test_a_prompt_is_remembered_the_same_in_any_company():
  measure = classifier_confidence.ClassifierConfidence(tiny_t5.CLASSIFIERS[2])
  model, params = tiny_t5.tiny_model(measure)
  prompts = np.zeros((4, 4), int)
  for row, length in enumerate((4, 0, 2, 3)):
    prompts[row, :length] = 5 + row
  generate = jax.jit(
    functools.partial(tiny_t5.generate, model, max_decode_length=LENGTH)
  )
  rows = (SOURCES[:4], np.float32([0.5, 0.4, 0.5, 0.45]))
  together = generate(params, *rows, prompts=prompts)
  for row in range(4):
    # Beside itself, so that one program serves all.
    alone = generate(
      params, *(x[[row] * 4] for x in rows), prompts=prompts[[row] * 4]
    )
    np.testing.assert_array_equal(alone.tokens[0], together.tokens[row])
    np.testing.assert_allclose(
      alone.confidences[0], together.confidences[row], atol=1e-5
    )
