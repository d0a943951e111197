"""Packs of rows give what the whole batch gives, whatever the exits."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from testing import plain_python, tiny_t5

from calm_jax import errors
from calm_jax.early_exit.engine import packing, sampling
from calm_jax.early_exit.measures import classifier_confidence, softmax, top_k

LENGTH = plain_python.LENGTH
BATCH = 7
SOURCES = tiny_t5.sources(BATCH)
THRESHOLDS = np.float32([1.0, 0.1, 0.3, 0.5, 0.7, 0.0, 0.4])


@functools.cache
def _generate(measure, rows_per_pack, sampled):
  model, params = tiny_t5.tiny_model(measure, rows_per_pack=rows_per_pack)
  options = {}
  if sampled:
    options = {
      'decode_fn': sampling.Sampler(temperature=1.0),
      'seeds': jnp.arange(BATCH, dtype=jnp.uint32),
    }
  return functools.partial(
    jax.jit(
      functools.partial(
        tiny_t5.generate, model, max_decode_length=LENGTH, **options
      )
    ),
    params,
  )


@pytest.mark.parametrize(
  'measure, rows_per_pack, sampled',
  [
    (softmax.SoftmaxTopTwoGap(), (3, 1), True),
    (top_k.TopKPropagation(k=(9, 5, 2)), (2,), False),
    (
      classifier_confidence.ClassifierConfidence(tiny_t5.CLASSIFIERS[2]),
      (4,),
      False,
    ),
  ],
  ids=lambda x: type(x).__name__,
)
def test_packs_equal_the_whole_batch(measure, rows_per_pack, sampled):
  packed = _generate(measure, rows_per_pack, sampled)(SOURCES, THRESHOLDS)
  whole = _generate(measure, (), sampled)(SOURCES, THRESHOLDS)
  used = np.asarray(whole.num_layers_used)
  assert len(set(used[used > 0].tolist())) > 2, 'exits must differ'
  for name in ('tokens', 'num_layers_used', 'num_undefined'):
    np.testing.assert_array_equal(getattr(packed, name), getattr(whole, name))
  for name in ('confidences', 'log_probs'):
    np.testing.assert_allclose(
      getattr(packed, name), getattr(whole, name), rtol=1e-5, atol=1e-5
    )


@given(
  st.lists(st.booleans(), min_size=1, max_size=9),
  st.lists(st.integers(1, 12), min_size=1, max_size=3),
)
@settings(max_examples=40, deadline=None)
def test_active_rows_alone_are_worked_on(active, rows_per_pack):
  active = jnp.array(active)
  by_row = {
    'a': jnp.arange(len(active) * 2.0).reshape(-1, 2),
    'b': jnp.full(len(active), -1.0),
  }
  shared = jnp.arange(len(active)) * 10

  def step(by_row, shared, rows):
    is_row = jnp.arange(len(rows.ids)) < rows.count
    read = rows.take(shared)
    result = jnp.where(is_row, by_row['a'][:, 0] + read, np.nan)
    shared = rows.for_each(lambda i, row, x: x.at[row].set(read[i] + 1), shared)
    return {'a': by_row['a'] + 1, 'b': result}, shared

  changed, in_place = packing.map_active_rows(
    step, active, by_row, shared, rows_per_pack=rows_per_pack
  )
  tens = jnp.arange(len(active)) * 10
  np.testing.assert_array_equal(changed['a'], by_row['a'] + active[:, None])
  np.testing.assert_array_equal(
    changed['b'], np.where(active, by_row['a'][:, 0] + tens, -1)
  )
  np.testing.assert_array_equal(in_place, jnp.where(active, tens + 1, tens))


@pytest.mark.parametrize(
  'sizes, expected',
  [((2,), [2, 2, 1]), ((4, 1), [4, 1]), ((4, 2), [4, 1]), ((9, 3), [5])],
)
def test_packs_are_as_many_as_the_rows_need(sizes, expected):
  """Counted at run time, for 5 of 7 rows."""
  counted = []

  def step(by_row, shared, rows):
    jax.debug.callback(lambda rows: counted.append(int(rows)), rows.count)
    return by_row, shared

  active = np.array([1, 1, 0, 1, 1, 0, 1], bool)
  jax.jit(
    functools.partial(packing.map_active_rows, step, rows_per_pack=sizes)
  )(active, np.zeros(7), ())
  jax.effects_barrier()
  assert sorted(counted, reverse=True) == expected


@pytest.mark.parametrize('sizes', [16, (0,), (16, 4.0), 'all', (True,)])
def test_sizes_that_are_none(sizes):
  with pytest.raises(errors.ConfigError, match=r'such as \(16, 4\)'):
    packing.checked_sizes(sizes)
