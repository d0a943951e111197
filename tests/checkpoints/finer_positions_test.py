"""More position buckets change no bias, and so no output."""

import jax
import numpy as np
import pytest

from calm_jax import errors
from calm_jax.checkpoints import finer_positions
from calm_jax.t5 import masks, network
from tests.testing import tiny_t5


@pytest.fixture(scope='module')
def coarse():
  config = tiny_t5.tiny_config(tied=True)
  return tiny_t5.tiny_params(config), config


@pytest.mark.parametrize('sizes', [(128, 128), (96, 64), (32, 128)])
def test_every_distance_keeps_its_bias(coarse, sizes):
  params, config = coarse
  finer, finer_config = finer_positions.finer_positions(params, config, *sizes)
  assert finer_config.relative_attention_num_buckets == sizes[0]
  assert finer_config.relative_attention_max_distance == sizes[1]
  for stack in ('encoder', 'decoder'):
    biases = [
      np.asarray(tree[stack]['relpos_bias']['rel_embedding'])[
        :,
        masks.relative_position_buckets(
          24,
          24,
          bidirectional=stack == 'encoder',
          num_buckets=x.relative_attention_num_buckets,
          max_distance=x.relative_attention_max_distance,
        ),
      ]
      for tree, x in ((params, config), (finer, finer_config))
    ]
    np.testing.assert_array_equal(*biases)


def test_far_distances_can_then_be_told_apart(coarse):
  params, config = coarse
  _, finer = finer_positions.finer_positions(params, config, 128, 128)
  buckets = masks.relative_position_buckets(
    33,
    33,
    bidirectional=True,
    num_buckets=finer.relative_attention_num_buckets,
    max_distance=finer.relative_attention_max_distance,
  )
  assert len(set(buckets[0])) == 33


def test_the_network_computes_the_same(coarse):
  params, config = coarse
  finer, finer_config = finer_positions.finer_positions(params, config, 64, 64)
  tokens = tiny_t5.sources(3, 20)
  logits = [
    network.Transformer(x).apply(
      {'params': {k: tree[k] for k in tree if k != 'exit_classifiers'}},
      tokens,
      tokens,
      tokens,
      enable_dropout=False,
    )
    for tree, x in ((params, config), (finer, finer_config))
  ]
  np.testing.assert_allclose(*jax.device_get(logits), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
  ('sizes', 'message'),
  [((16, 128), 'at least 32'), ((128, 64), 'above half of the 128 buckets')],
)
def test_buckets_that_cannot_be_are_refused(coarse, sizes, message):
  with pytest.raises(errors.ConfigError, match=message):
    finer_positions.finer_positions(*coarse, *sizes)
