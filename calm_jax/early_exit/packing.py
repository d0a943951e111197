"""Work on the rows of a batch that need it, a few of them at a time.

Rows of a batch leave the decoder one by one. A layer that half of them still
need shall cost half; but a compiled program has fixed shapes. So the rows that
go on are taken together in packs of a fixed size, as many packs as there are
rows for.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool

from calm_jax.t5 import rows as rows_lib

# (by_row [pack, ...], shared, rows) -> the same two.
PackStep = Callable[[Any, Any, rows_lib.Rows], tuple[Any, Any]]


def map_active_rows(
  step: PackStep,
  active: Bool[Array, ' batch'],
  by_row: Any,
  shared: Any,
  *,
  rows_per_pack: int,
) -> tuple[Any, Any]:
  """Runs `step` on the active rows in packs; in time linear in their number.

  Args:
    step: works on a pack of rows, each by itself. In the last pack some may be
      none (`rows.count`): copies of others whose results are thrown away.
    active: which rows to run.
    by_row: [batch, ...] arrays, of which the step sees and changes the pack's
      part.
    shared: arrays that the step sees whole, and changes for the pack's rows.
    rows_per_pack: rows of a pack.

  Returns:
    `by_row` and `shared` with the active rows changed.
  """
  order = jnp.argsort(~active, stable=True)
  order = jnp.pad(order, (0, rows_per_pack))
  num_active = jnp.sum(active)

  def run_pack(number, state):
    by_row, shared = state
    first = number * rows_per_pack
    count = jnp.minimum(num_active - first, rows_per_pack)
    ids = lax.dynamic_slice_in_dim(order, first, rows_per_pack)
    # Copies of a row of this pack ask for no work that it does not need.
    ids = jnp.where(jnp.arange(rows_per_pack) < count, ids, ids[0])
    rows = rows_lib.Rows(ids, count)
    part, shared = step(rows.take(by_row), shared, rows)
    return rows.put(by_row, part), shared

  num_packs = (num_active + rows_per_pack - 1) // rows_per_pack
  return lax.fori_loop(0, num_packs, run_pack, (by_row, shared))
