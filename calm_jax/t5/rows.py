"""A selection of a batch's rows that a computation works on.

Rows of a batch leave the decoder one by one, while caches hold all of them. A
layer that some rows still need reads and writes their part of the caches where
it lies: gathering it first would cost as much as reading it.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax
from jaxtyping import Array, Int


@struct.dataclass
class Rows:
  """Some rows of a batch, or all of them in their order.

  Attributes:
    ids: [rows] int32, their indices in the batch.
    count: how many of them are meant. The others fill up a fixed size; what is
      computed for them is never put into the batch.
    is_whole: whether they are the batch itself, as a program knows beforehand.
  """

  ids: Int[Array, ' rows']
  count: Int[Array, '']
  is_whole: bool = struct.field(pytree_node=False, default=False)

  @classmethod
  def all(cls, batch_size: int) -> 'Rows':
    """The whole batch."""
    return cls(jnp.arange(batch_size), jnp.int32(batch_size), is_whole=True)

  def take(self, tree: Any) -> Any:
    """[batch, ...] arrays -> [rows, ...]."""
    if self.is_whole:
      return tree
    return jax.tree.map(lambda x: x[self.ids], tree)

  def put(self, tree: Any, part: Any) -> Any:
    """[batch, ...] arrays with the rows of `part`, [rows, ...], put in."""
    if self.is_whole:
      return part
    is_row = jnp.arange(self.ids.shape[0]) < self.count

    def put_rows(x, y):
      # Past the end: not written.
      ids = jnp.where(is_row, self.ids, x.shape[0])
      return x.at[ids].set(y, mode='drop', unique_indices=True)

    return jax.tree.map(put_rows, tree, part)

  def for_each(
    self, function: Callable[[jax.Array, jax.Array, Any], Any], carried: Any
  ) -> Any:
    """`function(i, ids[i], carried)` for each row i that is meant, in turn."""
    return lax.fori_loop(
      0, self.count, lambda i, x: function(i, self.ids[i], x), carried
    )
