"""Which slots of a ring hold a row's own tokens, against a list of times."""

import jax.numpy as jnp
import numpy as np

from calm_jax.early_exit.engine import clock


def test_each_slot_is_seen_from_its_own_sequence_only():
  length = 4
  for time in range(11):
    # Sequences of at most four tokens, the last of which may be this one.
    starts = [start for start in range(time + 1) if time - start < length]
    now = clock.Clock(jnp.int32(time), jnp.array(starts))
    seen = np.asarray(now.is_seen(length))
    for row, start in enumerate(starts):
      # What was written last in each slot: the row's, if it had begun.
      own = {t % length for t in range(start, time + 1)}
      assert set(np.flatnonzero(seen[row])) == own, (time, start)
    assert now.positions.tolist() == [time - start for start in starts]


def test_the_worked_example():
  now = clock.Clock(jnp.int32(5), jnp.array([3]))
  assert now.is_seen(4)[0].tolist() == [True, True, False, True]
