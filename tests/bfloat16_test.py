"""bfloat16 as T5X uses it: activations only; parameters stay float32."""

import dataclasses

import gin
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from testing import copying, eight_devices, tiny_t5

from calm_jax.config import gin_setup
from calm_jax.decode import lengths, token_generator
from calm_jax.decode import model as model_lib
from calm_jax.early_exit.measures import softmax
from calm_jax.t5 import network
from calm_jax.training import state, step

pytestmark = pytest.mark.slow

BATCH = copying.CopyingBatches().batch_at(0)


def module_of(dtype):
  config = dataclasses.replace(
    eight_devices.CONFIG, dtype=dtype, dropout_rate=0.0
  )
  return network.Transformer(config)


@pytest.fixture(scope='module')
def steps():
  """Type -> (state, sums) of one step from the same parameters."""

  def one_step(dtype):
    module, optimizer = module_of(dtype), eight_devices.OPTIMIZER
    start = state.create(module, optimizer, jax.random.key(0), BATCH)
    train_step = step.make_train_step(
      module, optimizer, eight_devices.STAGE_1, seed=0
    )
    return train_step(start, BATCH)

  return {dtype: one_step(dtype) for dtype in ('float32', 'bfloat16')}


def test_a_step_is_near_float32s(steps):
  _, exact = steps['float32']
  after, rounded = steps['bfloat16']
  for name in ('loss', 'gradient_norm'):
    assert rounded[name].dtype == jnp.float32
    # bfloat16 has 8 bits of precision; equality would mean it was not used.
    assert rounded[name] == pytest.approx(float(exact[name]), rel=0.02)
    assert rounded[name] != exact[name]
  for leaf in jax.tree.leaves((after.params, after.opt_state)):
    assert leaf.dtype == jnp.float32 and np.isfinite(leaf).all()


def test_decoding_is_near_float32s(steps):
  after, _ = steps['float32']
  tokens = BATCH['encoder_input_tokens'][:4]
  thresholds = np.array([1.0, 0.5, 0.1, 0.0], np.float32)

  def decode(dtype):
    model = model_lib.EncoderDecoderModel(
      module_of(dtype),
      measure=softmax.SoftmaxTopTwoGap(),
      rows_per_pack=(),
    )
    return jax.jit(
      lambda params: tiny_t5.generate(
        model, params, tokens, thresholds, max_decode_length=1
      )
    )(after.params)

  exact, rounded = decode('float32'), decode('bfloat16')
  assert rounded.log_probs.dtype == jnp.float32
  np.testing.assert_allclose(rounded.log_probs, exact.log_probs, rtol=0.02)
  np.testing.assert_allclose(rounded.confidences, exact.confidences, atol=0.02)
  assert not np.array_equal(rounded.log_probs, exact.log_probs)


def test_the_macro_sets_the_type():
  gin_setup.parse(['gin/experiments/tiny.gin'], ["DTYPE = 'bfloat16'"])
  module = gin_setup.macro('MODEL').module
  gin.clear_config()
  tokens = jnp.ones((1, 3), jnp.int32)
  variables = jax.eval_shape(
    lambda key: module.init(key, tokens, tokens, tokens, enable_dropout=False),
    jax.random.key(0),
  )
  types = {leaf.dtype for leaf in jax.tree.leaves(variables['params'])}
  assert types == {jnp.dtype('float32')}
  encoded = jax.eval_shape(
    lambda params: module.apply({'params': params}, tokens, method='encode'),
    variables['params'],
  )
  assert encoded.dtype == jnp.bfloat16


def _tiny_generator(rows_per_pack):
  config = tiny_t5.tiny_config(tied=False, num_decoder_layers=3)
  model = model_lib.EncoderDecoderModel(
    network.Transformer(config.replace(dtype=jnp.bfloat16)),
    measure=softmax.SoftmaxTopTwoGap(),
    rows_per_pack=rows_per_pack,
    output_length=lengths.ProportionalLength(1.0),
  )
  return token_generator.TokenGenerator(
    model, tiny_t5.tiny_params(config), max_decode_length=6
  )


def _nearest_decision(result, thresholds):
  """By how much a confidence or a best token would have to change."""
  traced, used = result.trace_confidences, result.num_layers_used
  layers = np.arange(1, traced.shape[2] + 1)
  is_decided = (
    (layers <= used[..., None])
    & (layers < len(layers))
    & (thresholds[:, None, None] < 1)
  )
  from_thresholds = np.abs(traced - thresholds[:, None, None])[is_decided]
  # The gap of the two best tokens, where a token left.
  gaps = result.confidences[used > 0]
  return min(from_thresholds.min(), gaps.min())


def test_packs_and_a_queue_decide_as_one_row_at_a_time():
  """Rounding may depend on a program's shapes; clear decisions do not.

  A sum in another order may round to another bfloat16, which has 8 bits, and
  tip a decision that is near. So the sources are such that none is: tokens and
  layers must be the same, confidences only close.
  """
  thresholds = np.float32([1.0, 0.15, 0.35, 0.6, 1.0, 0.15, 0.35])
  sources = tiny_t5.sources(7, seed=173)
  generator = _tiny_generator(())
  by_row = [
    generator.generate_tokens(
      generator.request(sources[[i]], thresholds[[i]], trace=True)
    )
    for i in range(7)
  ]
  alone = jax.tree.map(lambda *x: np.concatenate(x), *by_row)
  used = alone.num_layers_used
  assert set(used[used > 0]) == {1, 2, 3}
  assert len(set((used > 0).sum(axis=1))) > 3, 'ends must differ'
  assert _nearest_decision(alone, thresholds) > 0.05, 'choose other sources'
  generator = _tiny_generator((2,))
  kernel = generator.params['decoder']['layers_0']['mlp']['wo']['kernel']
  assert kernel.dtype == jnp.bfloat16
  for batch_size in (None, 3):
    request = generator.request(sources, thresholds, trace=True)
    found = generator.generate_tokens(request, batch_size=batch_size)
    for name in ('tokens', 'num_layers_used'):
      np.testing.assert_array_equal(getattr(found, name), getattr(alone, name))
    np.testing.assert_allclose(found.confidences, alone.confidences, atol=0.02)
    np.testing.assert_allclose(found.log_probs, alone.log_probs, rtol=0.02)
