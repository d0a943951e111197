"""Caches that are filled when they are first read.

A layer that a token skips owes its caches a row for it. Nobody reads the row
before a later token enters that layer; then all owed rows are computed at once,
from the states in which their tokens left. The numbers are those of eager
propagation (CALM Sec. 3.3.1); layers that nobody enters read nothing.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax
from jaxtyping import Array, Float, Int

from calm_jax.early_exit import run_if

# Positions that a layer catches up with at a time.
_CHUNK = 8

# States [batch, positions, embed] -> their keys and values, laid out as below.
ProjectFn = Callable[[jax.Array], tuple[jax.Array, jax.Array]]


@struct.dataclass
class LazyCache:
  """Keys and values of one layer.

  Attributes:
    keys: [batch, heads, head_dim, target].
    values: [batch, heads, target, head_dim].
    filled: [batch] int32, leading positions written so far of each row.
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

  def with_position(
    self,
    project: ProjectFn,
    own: tuple[jax.Array, jax.Array],
    position: Int[Array, ''],
    exit_states: Float[Array, 'batch target embed'],
  ) -> 'LazyCache':
    """Catches up to `position` and adds this one.

    Args:
      project: the layer's own projection.
      own: key and value of this position, as `project` gives them.
      position: 0-based.
      exit_states: what it sees of the positions that it owes.
    """
    cache = self._caught_up(project, position, exit_states)
    key, value = own

    def write(cache):
      return LazyCache(
        keys=write_rows(cache.keys, key, position, axis=3),
        values=write_rows(cache.values, value, position, axis=2),
        filled=jnp.full_like(cache.filled, position + 1),
      )

    # Always true, which XLA does not know: a write of its own, which would else
    # be repeated on a copy of the cache for each reader.
    return run_if.run_if(position >= 0, write, cache)

  def _caught_up(self, project, position, exit_states):
    length = exit_states.shape[1]
    chunk = min(_CHUNK, length)

    def fill_chunk(cache):
      # All rows take the same positions; rows that have them already keep them.
      start = jnp.minimum(jnp.min(cache.filled), length - chunk)
      states = lax.dynamic_slice_in_dim(exit_states, start, chunk, axis=1)
      key, value = project(states)
      positions = start + jnp.arange(chunk)
      pending = (positions >= cache.filled[:, None]) & (positions < position)
      return LazyCache(
        keys=write_rows(cache.keys, key, start, axis=3, where=pending),
        values=write_rows(cache.values, value, start, axis=2, where=pending),
        filled=jnp.maximum(cache.filled, jnp.minimum(start + chunk, position)),
      )

    return lax.while_loop(
      lambda x: jnp.any(x.filled < position), fill_chunk, self
    )


def write_rows(cache, rows, start, *, axis, where=None):
  """Writes rows into a cache from position `start` of `axis` on.

  Args:
    cache: [batch, ..., target, ...] with the positions on `axis`.
    rows: the same shape with fewer positions.
    start: the first position, start + positions must not pass the end.
    axis: the axis of the positions.
    where: [batch, positions] bool; elsewhere the cache keeps what it holds.

  Returns:
    The cache with the rows written.
  """
  if where is not None:
    old = lax.dynamic_slice_in_dim(cache, start, rows.shape[axis], axis)
    shape = [1] * cache.ndim
    shape[0], shape[axis] = where.shape
    rows = jnp.where(where.reshape(shape), rows, old)
  return lax.dynamic_update_slice_in_dim(cache, rows, start, axis)
