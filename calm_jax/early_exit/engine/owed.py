"""Positions that a layer owes to rows of a batch, some at a time.

A layer that tokens skipped has nothing of them until a later token of their
row enters it. What it owes then are pairs of a row and a time, from the time up
to which the row is filled on. Rows owe different numbers, and a compiled
program has fixed shapes: so all pairs are numbered row by row, in ascending
time within a row, and taken in chunks of a few sizes.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from calm_jax.early_exit.engine import clock as clock_lib
from calm_jax.t5 import rows as rows_lib

# Pairs for each row, and in all: every chunk reads the layer's kernels once
# more, but most of a large chunk is empty when little is owed.
_LARGEST_CHUNK = 32


@struct.dataclass
class Pairs:
  """Some pairs of a row and a time.

  Attributes:
    rows: the row of each pair; a row may have several. Those past its count
      repeat the last pair, and are not to be written. If it is the whole batch,
      the times are one time.
    clock: the time of each pair, and the start of its row.
    is_meant: of a whole batch, the rows that take part; all if None.
  """

  rows: rows_lib.Rows
  clock: clock_lib.Clock
  is_meant: Bool[Array, ' pairs'] | None = None

  def take(self, states: Float[Array, 'batch target embed']) -> jax.Array:
    """[pairs, embed], of a ring of states."""
    return states[self.rows.ids, self.clock.time % states.shape[1]]

  def put(
    self,
    states: Float[Array, 'batch target embed'],
    new: Float[Array, 'pairs embed'],
  ) -> Float[Array, 'batch target embed']:
    """The ring, those of the pairs replaced."""
    slots = self.clock.time % states.shape[1]

    def put_one(i, row, states):
      part = lax.dynamic_slice_in_dim(new, i, 1)[:, None]
      return lax.dynamic_update_slice(states, part, (row, slots[i], 0))

    return self.rows.for_each(put_one, states)


def chunk_sizes(num_rows: int, per_row: Sequence[int]) -> tuple[int, ...]:
  """Sizes for so many rows, the largest first."""
  sizes = {min(x * num_rows, _LARGEST_CHUNK) for x in per_row}
  return tuple(sorted(sizes, reverse=True))


def in_chunks(
  step: Callable[[Pairs, Any], Any],
  carried: Any,
  filled: Int[Array, ' batch'],
  until: Int[Array, '...'],
  rows: rows_lib.Rows,
  starts: Int[Array, ' rows'],
  per_row: Sequence[int],
) -> Any:
  """Runs `step` on the pairs that some rows owe, in chunks.

  Pair number n belongs to the first row that, with those before it, owes more
  than n. The largest chunks are filled first; what is left over goes into a
  smaller one that holds it.

  Args:
    step: (pairs, carried) -> carried.
    carried: a tree of arrays.
    filled: the first time that each row of the batch owes.
    until: the first time that it does not owe any more; [rows], or one of all.
    rows: which rows of the batch.
    starts: when they began.
    per_row: sizes of chunks, in pairs for each row.

  Returns:
    What the last step returned.
  """
  filled = rows.take(filled)
  num_rows = filled.shape[0]
  is_row = jnp.arange(num_rows) < rows.count
  owed = jnp.where(is_row, until - filled, 0)
  up_to = jnp.cumsum(owed)
  total = up_to[-1]

  def run_chunk(size, state):
    first, carried = state
    numbers = first + jnp.arange(size)
    # Past the last pair it is repeated, and not written.
    numbers = jnp.minimum(numbers, total - 1)
    owner = jnp.sum(up_to <= numbers[:, None], axis=1)
    times = filled[owner] + numbers - (up_to - owed)[owner]
    pairs = Pairs(
      rows_lib.Rows(rows.ids[owner], jnp.minimum(total - first, size)),
      clock_lib.Clock(times, starts[owner]),
    )
    return first + size, step(pairs, carried)

  state = (jnp.int32(0), carried)
  sizes = chunk_sizes(num_rows, per_row)
  for size, smaller in zip(sizes, [*sizes[1:], 0], strict=True):
    state = lax.while_loop(
      lambda state, smaller=smaller: total - state[0] > smaller,
      lambda state, size=size: run_chunk(size, state),
      state,
    )
  return state[1]
