"""The jitted decoder against plain Python, and the promises it makes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from testing import tiny_t5

from calm_jax import models
from calm_jax.early_exit import confidence, layer_loop, schedule
from calm_jax.t5 import masks, network

LENGTH = 12
MEASURES = (confidence.SoftmaxTopTwoGap(), confidence.HiddenStateSaturation())


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
    functools.partial(model.generate, max_decode_length=LENGTH, trace=trace)
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


class PlainPython:
  """Early exit spelled out: no cache, no jit, one row, one token, one layer.

  Every layer is applied to all positions by the whole-sequence route (later
  ones are masked). `inputs[k, s]` is what layer k sees of position s: the state
  below it, or the state in which the token left if it left before.
  """

  def __init__(self, model, params, source):
    self.model, self.params = model, params
    self.config = model.config
    self.source = jnp.asarray(source)[None]
    self.encoded = self._network(self.source, method='encode')
    shape = (self.config.num_decoder_layers, LENGTH, self.config.emb_dim)
    self.inputs = np.zeros(shape, np.float32)

  def _network(self, *args, method):
    return np.asarray(
      network.Transformer(self.config).apply(
        {'params': self.params}, *args, method=method
      )
    )

  def _layer(self, k, position):
    bias = self._network(LENGTH, method='decoder_position_bias')[None]
    causal = np.tril(np.ones((LENGTH, LENGTH), bool))
    cross_mask = (self.source > 0)[:, None, None, :]
    outputs = network.DecoderLayer(self.config).apply(
      {'params': self.params['decoder'][f'layers_{k}']},
      self.inputs[k][None],
      self.encoded,
      bias + masks.mask_to_bias(causal, jnp.float32),
      masks.mask_to_bias(cross_mask, jnp.float32),
      enable_dropout=False,
    )
    return np.asarray(outputs[0, position])

  def _confidence(self, below, hidden):
    if isinstance(self.model.measure, confidence.HiddenStateSaturation):
      norms = np.linalg.norm(below) * np.linalg.norm(hidden)
      return float(np.dot(below, hidden) / norms)
    logits = np.float64(self._network(hidden, method='logits_from_hidden'))
    probabilities = np.exp(logits - logits.max())
    probabilities = np.sort(probabilities / probabilities.sum())
    return float(probabilities[-1] - probabilities[-2])

  def token(self, previous, position, threshold):
    """Returns the next token, layers used, confidence, log-probability."""
    hidden = self._network(jnp.int32(previous), method='embed')
    num_layers = self.config.num_decoder_layers
    for k in range(num_layers):
      self.inputs[k, position] = hidden
      below, hidden = hidden, self._layer(k, position)
      value = self._confidence(below, hidden)
      defined = k + 1 >= self.model.measure.first_layer
      if threshold < 1 and defined and value >= threshold:
        break
    self.inputs[k + 1 :, position] = hidden
    logits = np.float64(self._network(hidden, method='logits_from_hidden'))
    log_z = np.log(np.exp(logits - logits.max()).sum()) + logits.max()
    best = int(np.argmax(logits))
    return best, k + 1, value, logits[best] - log_z

  def generate(self, threshold_at):
    tokens, layers, confidences, log_prob = [], [], [], 0.0
    previous = 0
    for position in range(LENGTH):
      previous, used, value, score = self.token(
        previous, position, threshold_at(position)
      )
      tokens.append(previous)
      layers.append(used)
      confidences.append(value)
      log_prob += score
      if previous == models.EOS_ID:
        break
    return tokens, layers, confidences, log_prob


def _assert_equals_plain_python(result, row, expected):
  tokens, layers, confidences, log_prob = expected
  rest = [0] * (LENGTH - len(tokens))
  np.testing.assert_array_equal(result.tokens[row], tokens + rest)
  np.testing.assert_array_equal(result.num_layers_used[row], layers + rest)
  np.testing.assert_allclose(
    result.confidences[row], confidences + rest, atol=1e-5
  )
  np.testing.assert_allclose(result.log_probs[row], log_prob, atol=1e-4)


@pytest.mark.parametrize('measure', MEASURES, ids=lambda m: type(m).__name__)
@pytest.mark.parametrize('tied', [False, True], ids=['t5_1_1', 't5_1_0'])
def test_equals_plain_python_for_mixed_exits(measure, tied):
  sources = tiny_t5.sources(3)
  threshold = _mixed_threshold(measure, sources, tied)
  result = _generate(measure, sources, threshold, tied=tied)
  used = result.num_layers_used[result.num_layers_used > 0]
  assert len(np.unique(used)) > 1, 'the test needs mixed exits'
  model, params, _ = _compiled(measure, tied, False)
  for row, source in enumerate(sources):
    plain = PlainPython(model, params, source)
    expected = plain.generate(lambda position: threshold)
    _assert_equals_plain_python(result, row, expected)


def test_decaying_threshold_equals_plain_python():
  measure = MEASURES[0]
  sources = tiny_t5.sources(2)
  threshold = _mixed_threshold(measure, sources)
  model, params, generate = _compiled(measure, False, False, decaying=True)
  result = jax.device_get(
    generate(params, sources, np.full(2, threshold, np.float32))
  )
  for row, source in enumerate(sources):
    plain = PlainPython(model, params, source)
    expected = plain.generate(
      lambda t: min(1.0, 0.9 * threshold + 0.1 * np.exp(-4.0 * t / LENGTH))
    )
    _assert_equals_plain_python(result, row, expected)


@pytest.mark.parametrize('measure', MEASURES, ids=lambda m: type(m).__name__)
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
  model, params = tiny_t5.tiny_model(MEASURES[0])
  dense = params['decoder']['logits_dense']
  sharp = {'kernel': dense['kernel'] * 1e4}
  params = {
    **params,
    'decoder': {**params['decoder'], 'logits_dense': sharp},
  }
  result = model.generate(
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
  result = _generate(MEASURES[0], tiny_t5.sources(4), 0.0)
  used = result.num_layers_used
  assert (used[used > 0] == 1).all()


def test_saturation_is_defined_from_layer_two_on():
  result = _generate(MEASURES[1], tiny_t5.sources(4), 0.0)
  used = result.num_layers_used[result.num_layers_used > 0]
  assert used.min() == 2


@pytest.mark.parametrize('measure', MEASURES, ids=lambda m: type(m).__name__)
def test_batched_equals_one_by_one(measure):
  sources = tiny_t5.sources(6)
  mixed = _mixed_threshold(measure, sources)
  thresholds = np.float32([1.0, mixed, 0.0, mixed, 0.9 * mixed, 1.0])
  together = _generate(measure, sources, thresholds)
  for row in range(len(sources)):
    alone = _generate(measure, sources[row : row + 1], thresholds[row])
    for name in ('tokens', 'num_layers_used'):
      np.testing.assert_array_equal(
        getattr(together, name)[row], getattr(alone, name)[0]
      )
    for name in ('confidences', 'log_probs'):
      np.testing.assert_allclose(
        getattr(together, name)[row],
        getattr(alone, name)[0],
        rtol=1e-5,
        atol=1e-5,
      )


def test_grid_of_thresholds_equals_separate_batches():
  sources = tiny_t5.sources(3)
  measure = MEASURES[0]
  grid = np.float32([1.0, _mixed_threshold(measure, sources), 0.0])
  _, params, generate = _compiled(measure, False, False)
  result = jax.device_get(generate(params, sources, np.tile(grid, (3, 1))))
  for column, threshold in enumerate(grid):
    separate = _generate(measure, sources, threshold)
    np.testing.assert_array_equal(
      result.tokens.reshape(3, 3, LENGTH)[:, column], separate.tokens
    )


def test_nan_confidence_never_leaves_early():
  class NanMeasure:
    first_layer, predicts = 1, False

    def __call__(self, hidden, previous_hidden, logits_fn):
      return jnp.full(hidden.shape[0], jnp.nan), None

  model, params = tiny_t5.tiny_model(NanMeasure())
  result = model.generate(
    params, tiny_t5.sources(2), jnp.zeros(2), max_decode_length=3
  )
  used = np.asarray(result.num_layers_used)
  assert (used[used > 0] == 4).all()


@pytest.mark.parametrize('measure', MEASURES, ids=lambda m: type(m).__name__)
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
    assert (tokens[used:] == layer_loop.NOT_RUN).all()
    assert tokens[used - 1] == result.tokens[row, position]
    assert confidences[used - 1] == result.confidences[row, position]
    undefined = measure.first_layer - 1
    assert (confidences[:undefined] == layer_loop.NOT_RUN).all()
    assert (tokens[:undefined] >= 0).all()
    early = confidences[undefined : used - 1]
    assert (early < threshold).all()
    assert (confidences[used:] == layer_loop.NOT_RUN).all()


def test_full_trace_is_the_teacher_forced_argmax_of_every_layer():
  sources = tiny_t5.sources(3)
  result = _generate(MEASURES[0], sources, 1.0, trace=True)
  model, params, _ = _compiled(MEASURES[0], False, True)
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
  def add_rows(cache, rows, start, *, axis, where=None):
    if where is not None:
      shape = [1] * cache.ndim
      shape[axis] = -1
      rows = jnp.where(where.reshape(shape), rows, 0.0)
    old = jax.lax.dynamic_slice_in_dim(cache, start, rows.shape[axis], axis)
    return jax.lax.dynamic_update_slice_in_dim(cache, old + rows, start, axis)

  measure = MEASURES[0]
  sources = tiny_t5.sources(2)
  model, params = tiny_t5.tiny_model(measure)
  thresholds = jnp.full(2, _mixed_threshold(measure, sources))
  num_tokens = 11

  def caches():
    decoder = layer_loop.EarlyExitDecoder(params, model.config, measure)
    encoded = model.module.apply({'params': params}, sources, method='encode')
    constants = decoder.constants(encoded, sources, LENGTH)
    step = jax.jit(lambda token, position, cache: decoder(
      token, position, jnp.ones(2, bool), thresholds, constants, cache
    ))  # fmt: skip
    cache, token = decoder.empty_cache(2, LENGTH), jnp.zeros(2, jnp.int32)
    for position in range(num_tokens):
      result, cache = step(token, position, cache)
      token = result.token
    return cache

  written = caches()
  monkeypatch.setattr(layer_loop, 'write_rows', add_rows)
  added = caches()
  filled = [int(x) for x in written.filled]
  assert filled[0] == num_tokens
  assert any(x > 0 for x in filled[1:]), 'the test needs deeper layers'
  for k, upto in enumerate(filled):
    for name, axis in (('keys', 3), ('values', 2)):
      cache = np.asarray(getattr(written, name)[k])
      np.testing.assert_array_equal(cache, getattr(added, name)[k])
      positions = np.abs(np.moveaxis(cache, axis, 0)).reshape(LENGTH, -1)
      assert (positions[:upto].max(axis=1) > 0).all()
      assert (positions[upto:] == 0).all()


def test_finished_and_padding_rows_use_no_layers():
  sources = tiny_t5.sources(4)
  sources[2] = 0
  result = _generate(MEASURES[0], sources, 1.0)
  assert (result.tokens[2] == 0).all()
  assert (result.num_layers_used[2] == 0).all()
  for row in range(4):
    (ends,) = np.nonzero(result.tokens[row] == models.EOS_ID)
    if len(ends):
      assert (result.num_layers_used[row, ends[0] + 1 :] == 0).all()
