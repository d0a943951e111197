"""Caches that are filled when they are first read.

A layer that a token skips owes its caches a row for it. Nobody reads the row
before a later token enters that layer; then all owed rows are computed at once
(`owed`), from the states that their tokens left behind. Layers that nobody
enters read nothing.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax
from jaxtyping import Array, Float, Int

from calm_jax.early_exit.engine import owed, run_if
from calm_jax.t5 import rows as rows_lib

# States [batch, positions, embed] -> their keys and values, laid out as below.
ProjectFn = Callable[[jax.Array], tuple[jax.Array, jax.Array]]


@struct.dataclass
class LazyCache:
  """Keys and values of one layer; a ring, as `clock` says.

  Attributes:
    keys: [batch, heads, head_dim, target].
    values: [batch, heads, target, head_dim].
    filled: [batch] int32, the time up to which each row is written.
  """

  keys: Float[Array, 'batch heads kv target']
  values: Float[Array, 'batch heads target kv']
  filled: Int[Array, ' batch']

  @classmethod
  def empty(cls, batch, heads, head_dim, target, dtype) -> 'LazyCache':
    """No position written."""
    return cls(
      keys=jnp.zeros((batch, heads, head_dim, target), dtype),
      values=jnp.zeros((batch, heads, target, head_dim), dtype),
      filled=jnp.zeros((batch,), jnp.int32),
    )

  def restarted(self, rows: rows_lib.Rows, time: Int[Array, '']) -> 'LazyCache':
    """Nothing written of some rows, whose sequences begin at `time`."""
    now = jnp.full_like(rows.ids, time)
    return self.replace(filled=rows.put(self.filled, now))

  def with_position(
    self,
    project: ProjectFn,
    own: tuple[jax.Array, jax.Array],
    time: Int[Array, ''],
    kept_states: Float[Array, 'batch target embed'],
    rows: rows_lib.Rows,
  ) -> 'LazyCache':
    """Lets some rows catch up to a time, and adds their token of that time.

    Args:
      project: the layer's own projection.
      own: key and value of each row's token, as `project` gives them.
      time: of the clock.
      kept_states: what it sees of the tokens that it owes.
      rows: which rows of the batch.
    """

    def write_pairs(pairs, cache):
      states = kept_states[pairs.rows.ids, pairs.slots]
      return cache.with_pairs(project(states[:, None]), pairs)

    cache = owed.in_chunks(
      write_pairs, self, self.filled, time, rows, self.length
    )
    slot = time % self.length
    key, value = own

    def write(cache):
      if rows.is_whole:
        return cache.replace(
          keys=write_rows(cache.keys, key, (0, 0, 0, slot)),
          values=write_rows(cache.values, value, (0, 0, slot, 0)),
        )
      return rows.for_each(
        lambda i, row, cache: cache._with_pair(own, i, row, slot), cache
      )

    # Always true, which XLA does not know: a write of its own, which would else
    # be repeated on a copy of the cache for each reader.
    cache = run_if.run_if(time >= 0, write, cache)
    now_filled = jnp.full_like(rows.ids, time + 1)
    return cache.replace(filled=rows.put(cache.filled, now_filled))

  @property
  def length(self) -> int:
    return self.keys.shape[-1]

  def with_pairs(
    self, projected: tuple[jax.Array, jax.Array], pairs: owed.Pairs
  ) -> 'LazyCache':
    """Keys and values of some pairs, as a `ProjectFn` gives them, written."""
    return lax.fori_loop(
      0,
      pairs.rows.count,
      lambda i, cache: cache._with_pair(
        projected, i, pairs.rows.ids[i], pairs.slots[i]
      ),
      self,
    )

  def _with_pair(self, projected, i, row, slot):
    """Writes key and value number `i` to a slot of a row."""
    key, value = (lax.dynamic_slice_in_dim(x, i, 1) for x in projected)
    return self.replace(
      keys=write_rows(self.keys, key, (row, 0, 0, slot)),
      values=write_rows(self.values, value, (row, 0, slot, 0)),
    )


def write_rows(cache, part, start):
  """The cache with `part` written into it from the indices `start` on."""
  return lax.dynamic_update_slice(cache, part, start)
