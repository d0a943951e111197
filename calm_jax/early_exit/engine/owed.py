"""Positions that a layer owes to rows of a batch, some at a time.

A layer that tokens skipped has nothing of them until a later token of their
row enters it. What it owes then are pairs of a row and a time, from the time up
to which the row is filled on. Rows owe different numbers, and a compiled
program has fixed shapes: so all pairs are numbered row by row, in ascending
time within a row, and taken in chunks of one size.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from flax import struct
from jax import lax
from jaxtyping import Array, Int

from calm_jax.t5 import rows as rows_lib

# Some pairs for each row, since every chunk reads the layer's kernels once
# more; but a bounded number, most of which are empty when little is owed.
_CHUNK_PER_ROW = 8
_LARGEST_CHUNK = 32


@struct.dataclass
class Pairs:
  """Some pairs of a row and a slot.

  Attributes:
    rows: the row of each pair; a row may have several. Those past its count
      repeat the last pair, and are not to be written.
    slots: [pairs], where in the caches' rings.
  """

  rows: rows_lib.Rows
  slots: Int[Array, ' pairs']


def in_chunks(
  step: Callable[[Pairs, Any], Any],
  carried: Any,
  filled: Int[Array, ' batch'],
  until: Int[Array, '...'],
  rows: rows_lib.Rows,
  length: int,
) -> Any:
  """Runs `step` on the pairs that some rows owe, in chunks.

  Pair number n belongs to the first row that, with those before it, owes more
  than n.

  Args:
    step: (pairs, carried) -> carried.
    carried: a tree of arrays.
    filled: the first time that each row of the batch owes.
    until: the first time that it does not owe any more; [rows], or one of all.
    rows: which rows of the batch.
    length: of the caches' rings.

  Returns:
    What the last step returned.
  """
  filled = rows.take(filled)
  num_rows = filled.shape[0]
  is_row = jnp.arange(num_rows) < rows.count
  owed = jnp.where(is_row, until - filled, 0)
  up_to = jnp.cumsum(owed)
  total = up_to[-1]
  chunk = min(_CHUNK_PER_ROW * num_rows, _LARGEST_CHUNK)

  def run_chunk(state):
    first, carried = state
    numbers = first + jnp.arange(chunk)
    # Past the last pair it is repeated, and not written.
    numbers = jnp.minimum(numbers, total - 1)
    owner = jnp.sum(up_to <= numbers[:, None], axis=1)
    times = filled[owner] + numbers - (up_to - owed)[owner]
    count = jnp.minimum(total - first, chunk)
    pairs = Pairs(rows_lib.Rows(rows.ids[owner], count), times % length)
    return first + chunk, step(pairs, carried)

  return lax.while_loop(
    lambda state: state[0] < total, run_chunk, (jnp.int32(0), carried)
  )[1]
