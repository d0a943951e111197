"""Kernels kept in bfloat16 give what kernels rounded at each use give."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from testing import tiny_t5

from calm_jax.decode import model as model_lib
from calm_jax.early_exit.measures import top_k
from calm_jax.t5 import compute_dtype, network

SOURCES = tiny_t5.sources(3)


def test_outputs_are_the_same_bit_for_bit():
  config = dataclasses.replace(
    tiny_t5.tiny_config(tied=False), dtype=jnp.bfloat16
  )
  model = model_lib.EncoderDecoderModel(
    network.Transformer(config),
    measure=top_k.TopKPropagation(k=5),
    rows_per_pack=(),
  )
  generate = jax.jit(
    functools.partial(tiny_t5.generate, model, max_decode_length=6)
  )
  params = tiny_t5.tiny_params(tiny_t5.tiny_config(tied=False))
  thresholds = jnp.array([1.0, 0.3, 0.6])

  def run(params):
    return generate(params, SOURCES, thresholds, prepared=model.prepare(params))

  exact, rounded = run(params), run(compute_dtype.round_kernels(params, config))
  jax.tree.map(np.testing.assert_array_equal, exact, rounded)
  assert (exact.num_layers_used > 0).any()


def test_what_makes_logits_and_norms_stays_float32():
  config = dataclasses.replace(
    tiny_t5.tiny_config(tied=False), dtype=jnp.bfloat16
  )
  params = compute_dtype.round_kernels(
    tiny_t5.tiny_params(tiny_t5.tiny_config(tied=False)), config
  )
  layer = params['decoder']['layers_0']
  assert layer['self_attention']['query']['kernel'].dtype == jnp.bfloat16
  assert layer['mlp']['wo']['kernel'].dtype == jnp.bfloat16
  kept = (
    layer['pre_mlp_layer_norm']['scale'],
    params['decoder']['logits_dense']['kernel'],
    params['token_embedder']['embedding'],
    *jax.tree.leaves(params['exit_classifiers']),
  )
  assert all(x.dtype == jnp.float32 for x in kept)


def test_float32_is_left_alone():
  config = tiny_t5.tiny_config(tied=False)
  params = tiny_t5.tiny_params(config)
  same = compute_dtype.round_kernels(params, config)
  jax.tree.map(np.testing.assert_array_equal, same, params)
  assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(same))
