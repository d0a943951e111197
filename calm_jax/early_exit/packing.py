"""Work on the rows of a batch that need it, a few of them at a time.

Rows of a batch leave the decoder one by one. A layer that half of them still
need shall cost half; but a compiled program has fixed shapes. So the rows that
go on are taken together in packs of a fixed size, as many packs as there are
rows for.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Int

# (carried, read_only, is_row [pack]) -> carried; [pack, ...] each.
PackStep = Callable[[Any, Any, Bool[Array, ' pack']], Any]


def map_active_rows(
  step: PackStep,
  active: Bool[Array, ' batch'],
  carried: Any,
  read_only: Any,
  *,
  rows_per_pack: int,
) -> Any:
  """Runs `step` on the active rows in packs; in time linear in their number.

  Args:
    step: works on a pack of rows, each by itself. In the last pack some may be
      none: copies of others whose results are thrown away; `is_row` tells.
    active: which rows to run.
    carried: [batch, ...] arrays that the step changes.
    read_only: [batch, ...] arrays that it only reads.
    rows_per_pack: rows of a pack.

  Returns:
    `carried` with the active rows changed.
  """
  batch = active.shape[0]
  order = jnp.argsort(~active, stable=True)
  order = jnp.pad(order, (0, rows_per_pack))
  num_active = jnp.sum(active)

  def run_pack(number, carried):
    first = number * rows_per_pack
    rows = lax.dynamic_slice_in_dim(order, first, rows_per_pack)
    is_row = first + jnp.arange(rows_per_pack) < num_active
    # Copies of a row of this pack ask for no work that it does not need.
    taken = jnp.where(is_row, rows, rows[0])
    changed = step(_take(carried, taken), _take(read_only, taken), is_row)
    # Past the end: not written.
    return _put(carried, jnp.where(is_row, rows, batch), changed)

  num_packs = (num_active + rows_per_pack - 1) // rows_per_pack
  return lax.fori_loop(0, num_packs, run_pack, carried)


def _take(tree: Any, rows: Int[Array, ' pack']) -> Any:
  return jax.tree.map(lambda x: x[rows], tree)


def _put(tree: Any, rows: Int[Array, ' pack'], part: Any) -> Any:
  return jax.tree.map(
    lambda x, y: x.at[rows].set(y, mode='drop', unique_indices=True), tree, part
  )
