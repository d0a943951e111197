"""The jitted decoder against plain Python, and the promises it makes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from testing import plain_measures, plain_python, tiny_t5

from calm_jax.decode import request as request_lib
from calm_jax.early_exit.engine import (
  clock,
  confidence,
  decoder_state,
  layer_loop,
  lazy_cache,
  schedule,
  skipped_layers,
)
from calm_jax.early_exit.measures import saturation, softmax, static, top_k

LENGTH = plain_python.LENGTH
MEASURES = plain_measures.MEASURES
GAP = softmax.SoftmaxTopTwoGap()
SATURATION = saturation.HiddenStateSaturation()
TOP_K = top_k.TopKPropagation(k=5)
LAST_FROM_K = top_k.TopKPropagation(k=5, last_layer_from_k=True)


@functools.cache
def _compiled(measure, tied, trace, decaying=False):
  """Model, parameters and a jitted generate(params, sources, thresholds)."""
  threshold_schedule = (
    schedule.DecayingThreshold() if decaying else schedule.ConstantThreshold()
  )
  model, params = tiny_t5.tiny_model(
    measure, tied=tied, threshold_schedule=threshold_schedule
  )
  generate = jax.jit(
    functools.partial(
      tiny_t5.generate, model, max_decode_length=LENGTH, trace=trace
    )
  )
  return model, params, generate


def _generate(measure, sources, thresholds, *, tied=False, trace=False):
  _, params, generate = _compiled(measure, tied, trace)
  thresholds = np.broadcast_to(np.float32(thresholds), len(sources))
  return jax.device_get(generate(params, sources, thresholds))


def _mixed_threshold(measure, sources, tied=False) -> float:
  """A threshold near which tokens leave at many different layers."""
  full = _generate(measure, sources, 1.0, tied=tied, trace=True)
  upto = slice(measure.first_layer - 1, -1)
  seen = full.trace_confidences[full.num_layers_used > 0][:, upto]
  return float(np.clip(np.quantile(seen, 0.7), 0.01, 0.99))


def _assert_equals_plain_python(result, row, expected):
  tokens, layers, confidences, log_prob = expected
  rest = [0] * (LENGTH - len(tokens))
  np.testing.assert_array_equal(result.tokens[row], tokens + rest)
  np.testing.assert_array_equal(result.num_layers_used[row], layers + rest)
  np.testing.assert_allclose(
    result.confidences[row], confidences + rest, atol=1e-5
  )
  np.testing.assert_allclose(result.log_probs[row], log_prob, atol=1e-4)


@pytest.mark.parametrize(
  'tied, measure',
  [*((False, m) for m in MEASURES), (True, GAP), (True, TOP_K)],
  ids=str,
)
def test_equals_plain_python_for_mixed_exits(tied, measure):
  sources = tiny_t5.sources(3)
  threshold = _mixed_threshold(measure, sources, tied)
  result = _generate(measure, sources, threshold, tied=tied)
  used = result.num_layers_used[result.num_layers_used > 0]
  is_static = isinstance(measure, static.StaticExit)
  assert len(np.unique(used)) > 1 or is_static, 'the test needs mixed exits'
  model, params, _ = _compiled(measure, tied, False)
  for row, source in enumerate(sources):
    plain = plain_python.PlainPython(model, params, source)
    expected = plain.generate(lambda position: threshold)
    _assert_equals_plain_python(result, row, expected)


@pytest.mark.parametrize(
  'options',
  [
    {'exit_layers': schedule.ExitLayers(first_exit=2)},
    {'exit_layers': schedule.ExitLayers(exit_interval=2, min_exit=2)},
    {'skipped_layers': skipped_layers.FirstExitState()},
  ],
  ids=['first_exit', 'interval_and_min_exit', 'first_exit_state'],
)
def test_exits_and_skipped_layers_equal_plain_python(options):
  sources = tiny_t5.sources(3)
  threshold = _mixed_threshold(GAP, sources)
  model, params = tiny_t5.tiny_model(GAP, **options)
  generate = jax.jit(
    functools.partial(tiny_t5.generate, model, max_decode_length=LENGTH)
  )
  result = jax.device_get(
    generate(params, sources, np.full(3, threshold, np.float32))
  )
  used = result.num_layers_used[result.num_layers_used > 0]
  assert set(used) <= set(model.exit_layers.layers(4))
  assert len(np.unique(used)) > 1, 'the test needs mixed exits'
  for row, source in enumerate(sources):
    plain = plain_python.PlainPython(model, params, source)
    expected = plain.generate(lambda position: threshold)
    _assert_equals_plain_python(result, row, expected)


def test_first_exit_state_differs_from_the_exit_state():
  # T5X propagates the state of the first exit (t5x/contrib/calm/models.py); the
  # paper, and the default here, that of the layer where the token left.
  sources = tiny_t5.sources(4)
  threshold = np.full(4, _mixed_threshold(GAP, sources), np.float32)
  scores = []
  for rule in (
    skipped_layers.ProjectExitState(),
    skipped_layers.FirstExitState(),
  ):
    model, params = tiny_t5.tiny_model(GAP, skipped_layers=rule)
    result = tiny_t5.generate(
      model, params, sources, threshold, max_decode_length=8
    )
    scores.append(np.asarray(result.log_probs))
  assert np.abs(scores[0] - scores[1]).max() > 1e-3


def test_decaying_threshold_equals_plain_python():
  measure = GAP
  sources = tiny_t5.sources(2)
  threshold = _mixed_threshold(measure, sources)
  model, params, generate = _compiled(measure, False, False, decaying=True)
  result = jax.device_get(
    generate(params, sources, np.full(2, threshold, np.float32))
  )
  for row, source in enumerate(sources):
    plain = plain_python.PlainPython(model, params, source)
    expected = plain.generate(
      lambda t: min(1.0, 0.9 * threshold + 0.1 * np.exp(-4.0 * t / LENGTH))
    )
    _assert_equals_plain_python(result, row, expected)


@pytest.mark.parametrize('measure', (GAP, SATURATION, LAST_FROM_K), ids=str)
def test_threshold_one_is_the_teacher_forced_full_model(measure):
  # Cached = uncached: every generated token is the argmax of the network that
  # sees the whole prefix at once.
  sources = tiny_t5.sources(5)
  result = _generate(measure, sources, 1.0)
  is_token = result.num_layers_used > 0
  assert (result.num_layers_used[is_token] == 4).all()
  model, params, _ = _compiled(measure, False, False)
  inputs = np.pad(result.tokens[:, :-1], ((0, 0), (1, 0)))
  logits = model.module.apply(
    {'params': params},
    sources,
    inputs,
    # Targets only tell which positions hold tokens.
    is_token.astype(np.int32),
    enable_dropout=False,
  )
  best = np.argmax(logits, axis=-1)
  np.testing.assert_array_equal(result.tokens[is_token], best[is_token])


def test_threshold_one_ignores_a_saturated_confidence():
  # A float32 gap can be exactly 1; the full model is a rule, not a comparison.
  model, params = tiny_t5.tiny_model(GAP)
  dense = params['decoder']['logits_dense']
  sharp = {'kernel': dense['kernel'] * 1e4}
  params = {
    **params,
    'decoder': {**params['decoder'], 'logits_dense': sharp},
  }
  result = tiny_t5.generate(
    model,
    params,
    tiny_t5.sources(2),
    jnp.ones(2),
    max_decode_length=4,
    trace=True,
  )
  used = np.asarray(result.num_layers_used)
  assert (np.asarray(result.trace_confidences) == 1.0).any()
  assert (used[used > 0] == 4).all()


def test_threshold_zero_uses_one_layer():
  result = _generate(GAP, tiny_t5.sources(4), 0.0)
  used = result.num_layers_used
  assert (used[used > 0] == 1).all()


def test_saturation_is_defined_from_layer_two_on():
  result = _generate(SATURATION, tiny_t5.sources(4), 0.0)
  used = result.num_layers_used[result.num_layers_used > 0]
  assert used.min() == 2


@pytest.mark.parametrize('measure', MEASURES, ids=str)
def test_batched_equals_one_by_one(measure):
  sources = tiny_t5.sources(6)
  mixed = _mixed_threshold(measure, sources)
  thresholds = np.float32([1.0, mixed, 0.0, mixed, 0.9 * mixed, 1.0])
  together = _generate(measure, sources, thresholds)
  for row in range(len(sources)):
    # Rows of zeros are padding: nothing else runs, in the same program.
    alone = _generate(
      measure, np.where(np.arange(6)[:, None] == row, sources, 0), thresholds
    )
    for name in ('tokens', 'num_layers_used'):
      np.testing.assert_array_equal(
        getattr(together, name)[row], getattr(alone, name)[row]
      )
    for name in ('confidences', 'log_probs'):
      np.testing.assert_allclose(
        getattr(together, name)[row],
        getattr(alone, name)[row],
        rtol=1e-5,
        atol=1e-5,
      )


@pytest.mark.parametrize('measure', (GAP, SATURATION), ids=str)
def test_batched_equals_batches_of_one(measure):
  sources = tiny_t5.sources(4)
  thresholds = np.float32([1.0, _mixed_threshold(measure, sources), 0.0, 0.4])
  together = _generate(measure, sources, thresholds)
  for row in range(len(sources)):
    alone = _generate(measure, sources[row : row + 1], thresholds[row])
    for name in ('tokens', 'num_layers_used'):
      np.testing.assert_array_equal(
        getattr(together, name)[row], getattr(alone, name)[0]
      )


def test_grid_of_thresholds_equals_separate_batches():
  sources = tiny_t5.sources(3)
  measure = GAP
  grid = np.float32([1.0, _mixed_threshold(measure, sources), 0.0])
  _, params, generate = _compiled(measure, False, False)
  result = jax.device_get(generate(params, sources, np.tile(grid, (3, 1))))
  for column, threshold in enumerate(grid):
    separate = _generate(measure, sources, threshold)
    np.testing.assert_array_equal(
      result.tokens.reshape(3, 3, LENGTH)[:, column], separate.tokens
    )


def test_fault_20_nan_confidence_never_leaves_early():
  class NanMeasure(confidence.ConfidenceMeasure):
    def __call__(self, view):
      nan = jnp.full(view.hidden.shape[0], jnp.nan)
      return confidence.Measurement(jnp.where(view.layer == 3, 0.5, nan))

  model, params = tiny_t5.tiny_model(NanMeasure())
  result = tiny_t5.generate(
    model, params, tiny_t5.sources(2), jnp.zeros(2), max_decode_length=3
  )
  used = np.asarray(result.num_layers_used)
  assert (used[used > 0] == 3).all()
  # Counted: two in each token, after layers 1 and 2.
  np.testing.assert_array_equal(result.num_undefined, 2 * (used > 0).sum(1))


@pytest.mark.parametrize('measure', (GAP, SATURATION, TOP_K), ids=str)
def test_trace_agrees_with_the_exits(measure):
  sources = tiny_t5.sources(3)
  threshold = _mixed_threshold(measure, sources)
  result = _generate(measure, sources, threshold, trace=True)
  plain = _generate(measure, sources, threshold)
  np.testing.assert_array_equal(result.tokens, plain.tokens)
  for row, position in np.argwhere(result.num_layers_used > 0):
    used = result.num_layers_used[row, position]
    confidences = result.trace_confidences[row, position]
    tokens = result.trace_tokens[row, position]
    assert (tokens[used:] == decoder_state.NOT_RUN).all()
    assert tokens[used - 1] == result.tokens[row, position]
    assert confidences[used - 1] == result.confidences[row, position]
    undefined = measure.first_layer - 1
    assert (confidences[:undefined] == decoder_state.NOT_RUN).all()
    assert (tokens[:undefined] >= 0).all()
    early = confidences[undefined : used - 1]
    assert (early < threshold).all()
    assert (confidences[used:] == decoder_state.NOT_RUN).all()


def test_full_trace_is_the_teacher_forced_argmax_of_every_layer():
  sources = tiny_t5.sources(3)
  result = _generate(GAP, sources, 1.0, trace=True)
  model, params, _ = _compiled(GAP, False, True)
  is_token = result.num_layers_used > 0
  inputs = np.pad(result.tokens[:, :-1], ((0, 0), (1, 0)))
  apply = functools.partial(model.module.apply, {'params': params})
  encoded = apply(sources, method='encode')
  states = apply(
    encoded, sources, inputs, is_token.astype(np.int32),
    method='decode_all_layers',
  )  # fmt: skip
  logits = apply(states, method='logits_from_hidden')
  best = np.moveaxis(np.argmax(logits, axis=-1), 0, -1)
  np.testing.assert_array_equal(result.trace_tokens[is_token], best[is_token])


def test_every_layer_and_position_is_written_exactly_once(monkeypatch):
  # Writing by addition to caches of zeros gives the same numbers if and only
  # if nothing is written twice; what is past `filled` must still be zero.
  def add_rows(cache, part, start):
    old = jax.lax.dynamic_slice(cache, start, part.shape)
    return jax.lax.dynamic_update_slice(cache, old + part, start)

  measure = GAP
  sources = tiny_t5.sources(2)
  model, params = tiny_t5.tiny_model(measure)
  thresholds = jnp.full(2, _mixed_threshold(measure, sources))
  num_tokens = 11

  def caches():
    decoder = layer_loop.EarlyExitDecoder(params, model.config, measure)
    encoded = model.module.apply({'params': params}, sources, method='encode')
    constants = decoder.constants(encoded, sources, LENGTH)

    @jax.jit
    def step(token, position, cache):
      now = clock.Clock(position, jnp.zeros(2, jnp.int32))
      fed = decoder_state.TokenInput(token, now, jnp.ones(2, bool))
      return decoder(fed, thresholds, constants, cache)

    cache, token = decoder.empty_cache(2, LENGTH), jnp.zeros(2, jnp.int32)
    for position in range(num_tokens):
      result, cache = step(token, position, cache)
      token = result.token
    return cache

  written = caches()
  monkeypatch.setattr(lazy_cache, 'write_rows', add_rows)
  added = caches()
  filled = np.array([layer.filled for layer in written.layers])
  assert (filled[0] == num_tokens).all()
  assert filled[1:].any(), 'the test needs deeper layers'
  for k, of_rows in enumerate(filled):
    for name, axis in (('keys', 2), ('values', 1)):
      cache = np.asarray(getattr(written.layers[k], name))
      np.testing.assert_array_equal(cache, getattr(added.layers[k], name))
      for row, upto in zip(cache, of_rows, strict=True):
        positions = np.abs(np.moveaxis(row, axis, 0)).reshape(LENGTH, -1)
        assert (positions[:upto].max(axis=1, initial=1.0) > 0).all()
        assert (positions[upto:] == 0).all()


def test_finished_and_padding_rows_use_no_layers():
  sources = tiny_t5.sources(4)
  sources[2] = 0
  result = _generate(GAP, sources, 1.0)
  assert (result.tokens[2] == 0).all()
  assert (result.num_layers_used[2] == 0).all()
  for row in range(4):
    (ends,) = np.nonzero(result.tokens[row] == request_lib.EOS_ID)
    if len(ends):
      assert (result.num_layers_used[row, ends[0] + 1 :] == 0).all()
