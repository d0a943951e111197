"""The largest logits by way of blocks, against a stable sort."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calm_jax.early_exit.engine import prediction
from calm_jax.early_exit.measures import top_k

SIZE = 1024
_largest = jax.jit(prediction.largest, static_argnums=1)
_split = jax.jit(top_k.split, static_argnums=1)


def _stable_order(logits):
  return np.argsort(-logits, axis=1, kind='stable')


# Few values: most of the logits are equal to others, in and across blocks.
@given(st.integers(0, 2**32 - 1), st.sampled_from([2, 40, 10**6]))
@settings(max_examples=40, deadline=None)
@pytest.mark.parametrize('k', (2, 8))
def test_the_lowest_ids_of_equal_logits_are_first(k, seed, num_values):
  assert prediction._block_size(SIZE, k), 'the test is of blocks'
  rng = np.random.default_rng(seed)
  logits = rng.integers(0, num_values, (3, SIZE)).astype(np.float32)
  values, ids = _largest(logits, k)
  expected = _stable_order(logits)
  np.testing.assert_array_equal(ids, expected[:, :k])
  np.testing.assert_array_equal(
    values, np.take_along_axis(logits, expected[:, :k], axis=1)
  )


@pytest.mark.parametrize('size, block', [(32128, 128), (4096, 128), (1000, 0)])
def test_blocks_divide_the_vocabulary(size, block):
  assert prediction._block_size(size, 2) == block


def test_a_row_of_nan_spoils_no_other():
  logits = np.random.default_rng(0).normal(size=(2, SIZE)).astype(np.float32)
  logits[0, 700] = np.nan
  values, ids = _largest(logits, 2)
  assert np.isnan(values[0, 0])
  np.testing.assert_array_equal(ids[1], _stable_order(logits[1:])[0, :2])


@pytest.mark.parametrize('num_values', (3, 10**6))
def test_split_leaves_out_exactly_the_kept(num_values):
  rng = np.random.default_rng(1)
  logits = rng.integers(0, num_values, (4, SIZE)).astype(np.float32)
  logits /= num_values
  kept, log_rest = _split(logits, 8)
  expected = _stable_order(logits)
  np.testing.assert_array_equal(kept, np.sort(expected[:, :8], axis=1))
  rest = np.take_along_axis(logits, expected[:, 8:], axis=1)
  exact = np.log(np.exp(rest.astype(np.float64)).sum(axis=1))
  np.testing.assert_allclose(log_rest, exact, rtol=1e-6)


def test_split_of_all_but_one():
  logits = jnp.array([[0.5, 0.1, 0.3]])
  kept, log_rest = top_k.split(logits, 2)
  np.testing.assert_array_equal(kept, [[0, 2]])
  np.testing.assert_allclose(log_rest, [0.1], rtol=1e-6)
