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
from jaxtyping import Array, Bool, Float, Int

from calm_jax.early_exit.engine import clock as clock_lib
from calm_jax.early_exit.engine import owed, run_if
from calm_jax.t5 import rows as rows_lib

# Positions for each row that a layer catches up with at a time.
_PER_ROW = (8,)

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
    clock: clock_lib.Clock,
    kept_states: Float[Array, 'batch target embed'],
    rows: rows_lib.Rows,
  ) -> 'LazyCache':
    """Lets some rows catch up to a time, and adds their token of that time.

    Args:
      project: the layer's own projection.
      own: key and value of each row's token, as `project` gives them.
      clock: of the rows.
      kept_states: what it sees of the tokens that it owes.
      rows: which rows of the batch.
    """

    def write_owed(pairs, cache):
      return cache.written(project(pairs.take(kept_states)[:, None]), pairs)

    cache = owed.in_chunks(
      write_owed, self, self.filled, clock.time, rows, clock.starts, _PER_ROW
    )
    return cache.written(own, owed.Pairs(rows, clock)).passed(clock.time, rows)

  def passed(
    self,
    time: Int[Array, ''],
    rows: rows_lib.Rows,
    is_meant: Bool[Array, ' rows'] | None = None,
  ) -> 'LazyCache':
    """The cache of a layer that some rows, or some of these, have passed."""
    filled = jnp.full_like(rows.ids, time + 1)
    if is_meant is not None:
      filled = jnp.where(is_meant, filled, rows.take(self.filled))
    return self.replace(filled=rows.put(self.filled, filled))

  @property
  def length(self) -> int:
    return self.keys.shape[-1]

  def written(
    self, projected: tuple[jax.Array, jax.Array], pairs: owed.Pairs
  ) -> 'LazyCache':
    """Keys and values of some pairs, as a `ProjectFn` gives them, written."""
    if pairs.rows.is_whole:
      # Always true, which XLA does not know: a write of its own, which would
      # else be repeated on a copy of the cache for each reader.
      return run_if.run_if(
        pairs.clock.time >= 0,
        lambda cache: cache._with_column(projected, pairs),
        self,
      )
    slots = jnp.broadcast_to(
      pairs.clock.time % self.length, pairs.rows.ids.shape
    )

    def write(i, row, cache):
      key, value = (lax.dynamic_slice_in_dim(x, i, 1) for x in projected)
      return cache.replace(
        keys=write_rows(cache.keys, key, (row, 0, 0, slots[i])),
        values=write_rows(cache.values, value, (row, 0, slots[i], 0)),
      )

    return pairs.rows.for_each(write, self)

  def _with_column(self, projected, pairs):
    """Writes one slot of all rows, or of those that are meant."""
    slot = pairs.clock.time % self.length
    starts = (0, 0, 0, slot), (0, 0, slot, 0)
    arrays = []
    for array, new, start in zip(
      (self.keys, self.values), projected, starts, strict=True
    ):
      if pairs.is_meant is not None:
        old = lax.dynamic_slice(array, start, new.shape)
        new = jnp.where(pairs.is_meant[:, None, None, None], new, old)
      arrays.append(write_rows(array, new, start))
    return self.replace(keys=arrays[0], values=arrays[1])


def write_rows(cache, part, start):
  """The cache with `part` written into it from the indices `start` on."""
  return lax.dynamic_update_slice(cache, part, start)
