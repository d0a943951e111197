"""Several cached queries of a row give what the whole sequence gives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from testing import tiny_t5

from calm_jax.t5 import masks, network
from calm_jax.t5 import rows as rows_lib

CONFIG = tiny_t5.tiny_config(tied=False)
LENGTH, SOURCE = 6, 5


def arrays(batch):
  rng = np.random.default_rng(batch)
  inputs = rng.normal(size=(batch, LENGTH, CONFIG.emb_dim))
  encoded = rng.normal(size=(batch, SOURCE, CONFIG.emb_dim))
  bias = rng.normal(size=(CONFIG.num_heads, LENGTH, LENGTH))
  source_mask = np.arange(SOURCE) < rng.integers(1, SOURCE + 1, (batch, 1))
  return map(np.float32, (inputs, encoded, bias)), source_mask


@pytest.mark.parametrize(
  ('batch', 'owners', 'positions'),
  [
    (1, [0], [5]),
    (1, [0, 0, 0, 0], [1, 4, 2, 3]),
    (3, [2, 0, 2, 1, 2], [0, 5, 3, 2, 4]),
  ],
  ids=['one query', 'queries of one row', 'queries of several rows'],
)
def test_block_equals_the_whole_sequence(batch, owners, positions):
  (inputs, encoded, bias), source_mask = arrays(batch)
  causal = np.tril(np.ones((LENGTH, LENGTH), bool))
  bias = bias + np.asarray(masks.mask_to_bias(causal, jnp.float32))
  cross_bias = masks.mask_to_bias(source_mask[:, None], jnp.float32)
  layer = network.DecoderLayer(CONFIG)
  variables = {'params': tiny_t5.tiny_params(CONFIG)['decoder']['layers_1']}
  whole = layer.apply(
    variables, inputs, encoded, bias[None], cross_bias[:, None],
    enable_dropout=False,
  )  # fmt: skip

  @jax.jit
  def block(ids, slots):
    own = layer.apply(variables, inputs, method='project_self')
    cross = layer.apply(variables, encoded, method='project_cross')
    hidden = jnp.asarray(inputs)[ids, slots]
    query, *_ = layer.apply(variables, hidden, method='project_token')
    biases = jnp.asarray(bias)[:, slots].transpose(1, 0, 2)
    # The last is none: a copy that fills up a fixed size.
    rows = rows_lib.Rows(ids, jnp.int32(len(ids) - 1))
    return layer.apply(
      variables, hidden, query, *own, biases, *cross, cross_bias, rows,
      method='block',
    )  # fmt: skip

  ids, slots = np.array([*owners, owners[-1]]), np.array([*positions, 0])
  found = block(ids, slots)[:-1]
  np.testing.assert_allclose(found, whole[ids, slots][:-1], atol=1e-5)
