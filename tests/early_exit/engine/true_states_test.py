"""Skipped layers that run later: every state is the full model's."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from testing import plain_python, tiny_t5

from calm_jax import errors
from calm_jax.early_exit.engine import (
  clock,
  decoder_state,
  layer_loop,
  lazy_cache,
  sampling,
  true_states,
)
from calm_jax.early_exit.measures import (
  classifier_confidence,
  patience,
  saturation,
  softmax,
  static,
  top_k,
)
from calm_jax.t5 import network

LENGTH = plain_python.LENGTH
BATCH, LAYERS = 5, 4
SOURCES = tiny_t5.sources(BATCH)
TRUE_STATES = true_states.TrueStates()
GAP = softmax.SoftmaxTopTwoGap()
ATTENTION = classifier_confidence.ClassifierConfidence(tiny_t5.CLASSIFIERS[2])
MEASURES = (
  GAP,
  saturation.HiddenStateSaturation(),
  top_k.TopKPropagation(k=(9, 5, 2)),
  patience.Patience(),
  ATTENTION,
)
MIXED = {GAP: 0.2, MEASURES[1]: 0.9, MEASURES[2]: 0.2, ATTENTION: 0.5}


@functools.cache
def model_of(measure, rows_per_pack=(), per_row=(16, 4)):
  return tiny_t5.tiny_model(
    measure,
    rows_per_pack=rows_per_pack,
    skipped_layers=true_states.TrueStates(per_row),
  )


def generate(measure, thresholds, rows_per_pack=(), per_row=(16, 4), **options):
  model, params = model_of(measure, rows_per_pack, per_row)
  run = jax.jit(
    functools.partial(
      tiny_t5.generate, model, max_decode_length=LENGTH, **options
    )
  )
  return jax.device_get(run(params, SOURCES, np.float32(thresholds)))


def assert_mixed(result):
  used = result.num_layers_used
  assert len(set(used[used > 0].tolist())) > 2, 'exits must differ'


def assert_same(found, expected):
  for name in ('tokens', 'num_layers_used', 'num_undefined'):
    np.testing.assert_array_equal(
      getattr(found, name), getattr(expected, name), err_msg=name
    )
  for name in ('confidences', 'log_probs'):
    np.testing.assert_allclose(
      getattr(found, name), getattr(expected, name), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize('measure', MEASURES, ids=lambda x: type(x).__name__)
def test_equals_plain_python(measure):
  """In packs and chunks that are too small for what is owed."""
  threshold = MIXED.get(measure, 0.5)
  thresholds = [threshold, 1.0, 0.0, threshold, 0.9 * threshold]
  result = generate(measure, thresholds, (2, 1), (2, 1))
  assert_mixed(result)
  model, params = model_of(measure, (2, 1), (2, 1))
  for row, source in enumerate(SOURCES):
    plain = plain_python.PlainPython(model, params, source)
    tokens, layers, confidences, log_prob = plain.generate(
      lambda position, row=row: thresholds[row]
    )
    rest = [0] * (LENGTH - len(tokens))
    np.testing.assert_array_equal(result.tokens[row], tokens + rest)
    np.testing.assert_array_equal(result.num_layers_used[row], layers + rest)
    np.testing.assert_allclose(
      result.confidences[row], confidences + rest, atol=1e-5
    )
    np.testing.assert_allclose(result.log_probs[row], log_prob, atol=1e-4)


def steps(
  measure, thresholds, rows_per_pack=(), num_tokens=10, dtype=jnp.float32
):
  """Tokens fed in [batch, tokens], the layers they used, and the cache."""
  model, params = model_of(measure, rows_per_pack)
  decoder = layer_loop.EarlyExitDecoder(
    params, model.config.replace(dtype=dtype), measure,
    skipped_layers=TRUE_STATES, rows_per_pack=rows_per_pack,
  )  # fmt: skip
  module = network.Transformer(model.config.replace(dtype=dtype))
  encoded = module.apply({'params': params}, SOURCES, method='encode')
  constants = decoder.constants(encoded, SOURCES, LENGTH)
  everyone, starts = jnp.ones(BATCH, bool), jnp.zeros(BATCH, jnp.int32)
  step = jax.jit(lambda token, time, cache: decoder(
    decoder_state.TokenInput(token, clock.Clock(time, starts), everyone),
    thresholds(time), constants, cache
  ))  # fmt: skip
  cache, token = decoder.empty_cache(BATCH, LENGTH), jnp.zeros(BATCH, jnp.int32)
  fed, used = [], []
  for time in range(num_tokens):
    result, cache = step(token, jnp.int32(time), cache)
    fed.append(np.asarray(token))
    used.append(np.asarray(result.num_layers_used))
    token = result.token
  return np.stack(fed, 1), np.stack(used, 1), jax.device_get(cache)


def scripted(time):
  """Rows leave at layers that differ by row and time."""
  layer = 1 + ((jnp.arange(BATCH) * 7919 + time * 104729) // 8) % LAYERS
  return (layer - 0.5) / LAYERS


def teacher_forced(fed, dtype=jnp.float32):
  """States [layers, batch, tokens, embed] of the full model on the prefix."""
  model, params = model_of(GAP)
  module = network.Transformer(model.config.replace(dtype=dtype))
  apply = functools.partial(module.apply, {'params': params})
  encoded = apply(SOURCES, method='encode')
  return apply(
    encoded, SOURCES, fed, np.ones_like(fed), method='decode_all_layers'
  )


@pytest.mark.parametrize('rows_per_pack', [(), (2, 1)], ids=['whole', 'packs'])
def test_every_state_up_to_an_exit_is_the_teacher_forced_one(rows_per_pack):
  fed, used, cache = steps(static.StaticExit(), scripted, rows_per_pack)
  assert set(used.ravel()) == set(range(1, LAYERS + 1))
  states = np.asarray(teacher_forced(fed))
  filled = np.array([layer.filled for layer in cache.layers])
  # A later token has taken every earlier one along up to where it left.
  deepest = np.maximum.accumulate(used[:, ::-1], axis=1)[:, ::-1]
  positions = np.arange(fed.shape[1])
  np.testing.assert_array_equal(
    deepest, (positions < filled[..., None]).sum(axis=0)
  )
  for row in range(BATCH):
    for position, layer in enumerate(deepest[row]):
      expected = states[layer - 1, row, position]
      np.testing.assert_allclose(
        cache.kept_states[row, position],
        expected,
        atol=1e-5 * np.abs(expected).max(),
      )


def test_bfloat16_states_are_near_the_teacher_forced_ones():
  """In packs. Both round to 8 bits, in sums of another order.

  Of random weights, sharp attentions make much of little: so one state may be
  further off than most.
  """
  fed, used, cache = steps(
    static.StaticExit(), scripted, (2, 1), dtype=jnp.bfloat16
  )
  assert cache.kept_states.dtype == cache.layers[3].keys.dtype == jnp.bfloat16
  states = np.float32(teacher_forced(fed, jnp.bfloat16))
  deepest = np.maximum.accumulate(used[:, ::-1], axis=1)[:, ::-1]
  rows, positions = np.indices(deepest.shape)
  expected = states[deepest - 1, rows, positions]
  found = np.float32(cache.kept_states[rows, positions])
  errors_of = np.linalg.norm(found - expected, axis=2)
  errors_of /= np.linalg.norm(expected, axis=2)
  assert np.median(errors_of) < 0.02
  assert errors_of.max() < 0.2


def test_rows_that_have_left_but_are_carried_along_stay_owing():
  """Without packs, all rows run while one is undecided."""
  _, used, cache = steps(
    static.StaticExit(), lambda time: jnp.array([1.0, 0.1, 0.1, 0.4, 0.1])
  )
  np.testing.assert_array_equal(used[:, 0], [4, 1, 1, 2, 1])
  filled = [layer.filled.tolist() for layer in cache.layers]
  assert filled == [[10] * 5, [10, 0, 0, 10, 0], *[[10, 0, 0, 0, 0]] * 2]
  assert not np.asarray(cache.layers[2].keys[1:]).any()


@pytest.mark.parametrize('rows_per_pack', [(), (2, 1)], ids=['whole', 'packs'])
def test_every_layer_and_position_is_written_once(monkeypatch, rows_per_pack):
  """The measure's keys too."""

  def add_rows(cache, part, start):
    old = jax.lax.dynamic_slice(cache, start, part.shape)
    return jax.lax.dynamic_update_slice(cache, old + part, start)

  def run():
    return steps(ATTENTION, lambda time: jnp.full(BATCH, 0.5), rows_per_pack)

  _, used, written = run()
  assert len(set(used.ravel())) > 2, 'exits must differ'
  monkeypatch.setattr(lazy_cache, 'write_rows', add_rows)
  _, _, added = run()
  filled = np.array([layer.filled for layer in written.layers])
  for caches, others in (
    (written.layers, added.layers),
    (written.measure_state, added.measure_state),
  ):
    for k, (cache, other) in enumerate(zip(caches, others, strict=True)):
      np.testing.assert_array_equal(cache.keys, other.keys)
      np.testing.assert_array_equal(cache.values, other.values)
      is_written = np.abs(cache.keys).max(axis=(1, 2)) > 0
      expected = np.arange(LENGTH) < filled[k][:, None]
      np.testing.assert_array_equal(is_written, expected)


@pytest.mark.parametrize('measure', (GAP, ATTENTION), ids=['gap', 'attention'])
@pytest.mark.parametrize('sampled', [False, True], ids=['greedy', 'sampled'])
def test_packs_and_single_rows_equal_the_whole_batch(measure, sampled):
  threshold = MIXED[measure]
  thresholds = np.float32([1.0, threshold, 0.0, threshold, 0.8 * threshold])
  prompts = np.zeros((BATCH, 3), int)
  prompts[1], prompts[3, :1] = 5, 7
  options = {'prompts': prompts}
  if sampled:
    options['decode_fn'] = sampling.Sampler(temperature=1.0)
    options['seeds'] = np.arange(BATCH, dtype=np.uint32)
  whole = generate(measure, thresholds, **options)
  assert_mixed(whole)
  assert_same(generate(measure, thresholds, (2,), (1,), **options), whole)
  model, params = model_of(measure)
  run = jax.jit(
    functools.partial(
      tiny_t5.generate,
      model,
      max_decode_length=LENGTH,
      **{k: v for k, v in options.items() if k == 'decode_fn'},
    )
  )
  for row in (1, 3):
    one = {k: v[[row]] for k, v in options.items() if k != 'decode_fn'}
    alone = run(params, SOURCES[[row]], thresholds[[row]], **one)
    assert_same(alone, jax.tree.map(lambda x, row=row: x[[row]], whole))


def test_threshold_one_is_the_full_model_number_by_number():
  model, params = tiny_t5.tiny_model(GAP)
  projected = tiny_t5.generate(
    model, params, SOURCES, jnp.ones(BATCH), max_decode_length=LENGTH
  )
  assert_same(generate(GAP, np.ones(BATCH)), jax.device_get(projected))


def test_wrong_sizes_of_passes_are_refused():
  with pytest.raises(errors.ConfigError, match='at least one size'):
    true_states.TrueStates(())
  assert true_states.TrueStates([8]).per_row == (8,)
