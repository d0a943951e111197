"""Rows that skip a layer owe it, and pay when they enter it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calm_jax.early_exit.engine import clock as clock_lib
from calm_jax.early_exit.engine import lazy_cache
from calm_jax.t5 import rows as rows_lib

BATCH, EMBED, LENGTH, STEPS = 3, 2, 8, 9
# Rows that enter the layer at each time; row 1 leaves below it for long.
ENTERING = ((0, 1, 2), (0,), (0, 2), (), (2,), (0, 2), (0,), (0, 1, 2), (2,))


def project(states):
  """[batch, positions, embed] -> one head of keys and values."""
  keys = jnp.transpose(10.0 * states, (0, 2, 1))[:, None]
  return keys, (states + 0.5)[:, None]


@pytest.mark.parametrize('is_whole', [False, True])
def test_what_is_owed_is_written_when_a_row_enters(is_whole):
  """Against all states ever, of which a ring shows the newest."""
  states = np.random.default_rng(0).normal(size=(STEPS, BATCH, EMBED))
  states = states.astype(np.float32)
  kept_states = np.zeros((BATCH, LENGTH, EMBED), np.float32)
  cache = lazy_cache.LazyCache.empty(BATCH, 1, EMBED, LENGTH, jnp.float32)

  @jax.jit
  def enter(cache, own, time, kept_states, rows):
    clock = clock_lib.Clock(time, jnp.zeros(BATCH, jnp.int32))
    return cache.with_position(project, project(own), clock, kept_states, rows)

  for time, entering in enumerate(ENTERING):
    if is_whole:
      entering = range(BATCH) if entering else ()
    ids = [*entering, *(BATCH - 1,) * (BATCH - len(entering))]
    rows = rows_lib.Rows(jnp.array(ids), jnp.int32(len(entering)))
    if is_whole:
      rows = rows_lib.Rows.all(BATCH)
    if entering:
      own = states[time][ids][:, None]
      cache = enter(cache, own, jnp.int32(time), kept_states, rows)
    kept_states[:, time % LENGTH] = states[time]
    for row in entering:
      assert cache.filled[row] == time + 1
      for then in range(max(0, time + 1 - LENGTH), time + 1):
        key, value = cache.keys[row, 0], cache.values[row, 0]
        slot = then % LENGTH
        np.testing.assert_allclose(key[:, slot], 10.0 * states[then, row])
        np.testing.assert_allclose(value[slot], states[then, row] + 0.5)
