"""Each layer against its formula, written in float64 NumPy."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from testing import tiny_t5

from calm_jax import errors
from calm_jax.t5 import attention, joined, layers, masks, network


def draw(seed, *shape):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def init_and_apply(module, *args, **kwargs):
  variables = module.init(jax.random.key(0), *args, **kwargs)
  params = variables['params']
  return params, module.apply({'params': params}, *args, **kwargs)


def test_layer_norm_divides_by_the_root_mean_square():
  inputs = draw(0, 2, 3, 8) + 5  # a mean that must not be subtracted
  scale = draw(1, 8)
  output = layers.LayerNorm().apply({'params': {'scale': scale}}, inputs)
  mean_square = np.mean(inputs.astype(np.float64) ** 2, axis=-1, keepdims=True)
  expected = inputs / np.sqrt(mean_square + 1e-6) * scale
  np.testing.assert_allclose(output, expected, atol=1e-5)


def test_layer_norm_keeps_its_statistics_in_float32():
  inputs = jnp.full((1, 4096), 200.0, jnp.bfloat16)
  _, output = init_and_apply(layers.LayerNorm(jnp.bfloat16), inputs)
  assert output.dtype == jnp.bfloat16
  np.testing.assert_array_equal(output.astype(np.float32), 1.0)


def gelu_tanh(x):
  inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
  return 0.5 * x * (1 + np.tanh(inner))


def test_one_activation_uses_wi():
  inputs = draw(0, 2, 3, 4)
  params, output = init_and_apply(layers.MlpBlock(6, ('relu',)), inputs)
  assert set(params) == {'wi', 'wo'}
  hidden = np.maximum(inputs @ np.float64(params['wi']['kernel']), 0)
  expected = hidden @ np.float64(params['wo']['kernel'])
  np.testing.assert_allclose(output, expected, atol=1e-5)


def test_two_activations_gate_each_other():
  inputs = draw(0, 2, 3, 4)
  block = layers.MlpBlock(6, ('gelu', 'linear'))
  params, output = init_and_apply(block, inputs)
  assert set(params) == {'wi_0', 'wi_1', 'wo'}
  gate = gelu_tanh(inputs @ np.float64(params['wi_0']['kernel']))
  hidden = gate * (inputs @ np.float64(params['wi_1']['kernel']))
  expected = hidden @ np.float64(params['wo']['kernel'])
  np.testing.assert_allclose(output, expected, atol=1e-5)


def test_dropout_drops_a_feature_at_all_positions_of_a_row():
  inputs = jnp.ones((4, 5, 64))
  dropout = layers.Dropout(0.25)
  output = np.asarray(
    dropout.apply({}, inputs, True, rngs={'dropout': jax.random.key(1)})
  )
  np.testing.assert_array_equal(output, output[:, :1].repeat(5, axis=1))
  np.testing.assert_allclose(np.unique(output), [0, 1 / 0.75], rtol=1e-6)
  assert len({row.tobytes() for row in output}) == 4
  # 256 draws of probability 1/4: 64 expected, five standard deviations are 35.
  assert abs(int((output[:, 0] == 0).sum()) - 64) < 35


def test_dropout_needs_no_random_numbers_when_off():
  inputs = draw(0, 2, 3, 4)
  output = layers.Dropout(0.5).apply({}, inputs, False)
  np.testing.assert_array_equal(output, inputs)


def test_embedding_is_looked_up_and_multiplied():
  table = draw(0, 9, 4)
  embed = layers.Embed(9, 4).bind({'params': {'embedding': table}})
  np.testing.assert_array_equal(embed(jnp.array([[2, 0]])), table[[[2, 0]]])
  states = draw(1, 2, 4)
  np.testing.assert_allclose(embed.attend(states), states @ table.T, atol=1e-5)


@pytest.mark.parametrize('bidirectional', [True, False])
def test_relative_position_bias_is_looked_up(bidirectional):
  table = draw(0, 2, 32)
  biases = layers.RelativePositionBiases(2, bidirectional).apply(
    {'params': {'rel_embedding': table}}, 5, 7
  )
  assert biases.shape == (1, 2, 5, 7)
  later = 16 if bidirectional else 0
  # Query 1: its predecessor is bucket 1, itself 0, its successor later + 1.
  np.testing.assert_array_equal(biases[0, :, 1, 0], table[:, 1])
  np.testing.assert_array_equal(biases[0, :, 1, 1], table[:, 0])
  next_bucket = later + 1 if bidirectional else 0
  np.testing.assert_array_equal(biases[0, :, 1, 2], table[:, next_bucket])


def attend_in_loops(params, inputs_q, inputs_kv, bias, num_heads):
  """Attention one query and one head at a time, in float64."""
  kernels = {name: np.float64(params[name]['kernel']) for name in params}
  query, key, value = (
    np.stack(np.split(inputs @ kernels[name], num_heads, axis=-1))
    for inputs, name in (
      (inputs_q, 'query'),
      (inputs_kv, 'key'),
      (inputs_kv, 'value'),
    )
  )
  rows = []
  for q in range(len(inputs_q)):
    heads = []
    for h in range(num_heads):
      logits = key[h] @ query[h, q] + bias[h, q]  # no 1/sqrt(head_dim)
      weights = np.exp(logits - logits.max())
      heads.append(weights / weights.sum() @ value[h])
    rows.append(np.concatenate(heads) @ kernels['out'])
  return np.array(rows)


def test_attention_equals_loops_over_queries_and_heads():
  module = attention.MultiHeadDotProductAttention(2, 4, 6)
  inputs_q, inputs_kv = draw(0, 1, 3, 6), draw(1, 1, 5, 6)
  bias = draw(2, 1, 2, 3, 5)
  bias[0, :, 1, 2:] = masks.MASKED_LOGIT
  params, output = init_and_apply(module, inputs_q, inputs_kv, bias)
  expected = attend_in_loops(params, inputs_q[0], inputs_kv[0], bias[0], 2)
  np.testing.assert_allclose(output[0], expected, atol=1e-5)


def test_attention_over_a_cache_equals_attention_over_the_sequence():
  module = attention.MultiHeadDotProductAttention(2, 4, 6)
  inputs_q, inputs_kv = draw(0, 2, 3, 6), draw(1, 2, 5, 6)
  bias = draw(2, 2, 2, 3, 5)
  params, output = init_and_apply(module, inputs_q, inputs_kv, bias)
  bound = module.bind({'params': params})
  key, value = bound.project_key_value(inputs_kv)
  assert key.shape == (2, 2, 4, 5) and value.shape == (2, 2, 5, 4)
  for q in range(3):
    query = bound.project_query(inputs_q[:, q])
    step = bound.attend_cached(query, key, value, bias[:, :, q])
    np.testing.assert_allclose(step, output[:, q], atol=1e-5)


@pytest.mark.parametrize('tied', [False, True])
def test_joined_kernels_give_the_same_token(tied):
  config = tiny_t5.tiny_config(tied=tied)
  params = tiny_t5.tiny_params(config)
  kernels = joined.join_kernels(params, config.num_decoder_layers)
  assert len(kernels) == config.num_decoder_layers
  layer = network.DecoderLayer(config)
  apart = {'params': params['decoder']['layers_1']}
  together = {**apart, 'joined': kernels[1]}
  hidden = draw(3, 2, config.emb_dim)
  expected = layer.apply(apart, hidden, method='project_token')
  got = layer.apply(together, hidden, method='project_token')
  key, value = layer.apply(apart, hidden[:, None], method='project_self')
  for x, y in zip(got, expected, strict=True):
    np.testing.assert_allclose(x, y, atol=1e-6)
  np.testing.assert_allclose(got[1], key, atol=1e-6)
  np.testing.assert_allclose(got[2], value, atol=1e-6)


def test_joined_inputs_of_the_feed_forward_block():
  block = layers.MlpBlock(6, ('gelu', 'linear'))
  inputs = draw(0, 3, 4)
  params, expected = init_and_apply(block, inputs)
  wi = np.concatenate(
    [params['wi_0']['kernel'], params['wi_1']['kernel']], axis=1
  )
  output = block.apply(
    {'params': {'wo': params['wo']}, 'joined': {'wi': wi}}, inputs
  )
  np.testing.assert_allclose(output, expected, atol=1e-6)


def test_an_unknown_activation_is_told():
  module = layers.MlpBlock(8, activations=('silu', 'linear'))
  with pytest.raises(errors.ConfigError, match="gelu, relu, linear.*'silu'"):
    module.init(jax.random.key(0), draw(0, 1, 2, 4))
