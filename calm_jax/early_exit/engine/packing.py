"""Work on the rows of a batch that need it, a few of them at a time.

Rows of a batch leave the decoder one by one. A layer that half of them still
need should cost half; but a compiled program has fixed shapes. So the rows that
go on are taken together in packs of a few fixed sizes, as many packs as there
are rows for.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool

from calm_jax import errors
from calm_jax.t5 import rows as rows_lib

# Sixteen rows cost a layer little more than its weights do; deep layers, which
# few rows reach, are a tenth faster with a second size. Each size is compiled.
ROWS_PER_PACK = (16, 4)

# (by_row [pack, ...], shared, rows) -> the same two.
PackStep = Callable[[Any, Any, rows_lib.Rows], tuple[Any, Any]]


def checked_sizes(sizes: Sequence[int]) -> tuple[int, ...]:
  """The sizes of packs as a tuple.

  Raises:
    ConfigError: they are no positive integers.
  """
  if not isinstance(sizes, Sequence) or any(
    type(size) is not int or size < 1 for size in sizes
  ):
    raise errors.ConfigError(
      'rows_per_pack must hold integers of at least 1, such as (16, 4), or be'
      f' () for no packs, got {sizes!r}.'
    )
  return tuple(sizes)


def map_active_rows(
  step: PackStep,
  active: Bool[Array, ' batch'],
  by_row: Any,
  shared: Any,
  *,
  rows_per_pack: Sequence[int],
) -> tuple[Any, Any]:
  """Runs `step` on the active rows in packs; in time linear in their number.

  Args:
    step: works on a pack of rows, each by itself. In the last pack some may be
      none (`rows.count`): copies of others whose results are thrown away.
    active: which rows to run.
    by_row: [batch, ...] arrays, of which the step sees and changes the pack's
      part.
    shared: arrays that the step sees whole, and changes for the pack's rows.
    rows_per_pack: sizes of packs. The largest are filled first; what is left
      over goes into a smaller one that holds it.

  Returns:
    `by_row` and `shared` with the active rows changed.
  """
  batch = active.shape[0]
  sizes = sorted({min(x, batch) for x in rows_per_pack}, reverse=True)
  order = jnp.argsort(~active, stable=True)
  order = jnp.pad(order, (0, sizes[0]))
  num_active = jnp.sum(active)
  state = (jnp.int32(0), by_row, shared)
  for size, smaller in zip(sizes, [*sizes[1:], 0], strict=True):
    state = lax.while_loop(
      lambda state, smaller=smaller: num_active - state[0] > smaller,
      functools.partial(_run_pack, step, order, num_active, size),
      state,
    )
  return state[1:]


def _run_pack(step, order, num_active, size, state):
  """The next `size` rows, or as many as are left."""
  first, by_row, shared = state
  count = jnp.minimum(num_active - first, size)
  ids = lax.dynamic_slice_in_dim(order, first, size)
  # Copies of a row of this pack ask for no work that it does not need.
  ids = jnp.where(jnp.arange(size) < count, ids, ids[0])
  rows = rows_lib.Rows(ids, count)
  part, shared = step(rows.take(by_row), shared, rows)
  return first + size, rows.put(by_row, part), shared
