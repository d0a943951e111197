"""Gradient accumulation: a batch in parts, one after the other.

    batch --split--> microbatches --grad_fn, one at a time--> sum of the results

T5X's `num_microbatches` (its `accumulate_grads_microbatched`): memory is that
of one microbatch, and the result is that of the whole batch.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from calm_jax import errors

Batch = Mapping[str, jax.Array]


def accumulate(
  grad_fn: Callable[[Batch, jax.Array], Any],
  batch: Batch,
  num_microbatches: int,
) -> Any:
  """The sum of `grad_fn` over the microbatches.

  Args:
    grad_fn: (microbatch, its index from 0) -> a tree of arrays to be summed.
    batch: [batch, ...] each.
    num_microbatches: must divide the batch.

  Returns:
    The same tree.

  Raises:
    ConfigError: the rows do not divide into so many microbatches.
  """
  if num_microbatches == 1:
    return grad_fn(batch, jnp.int32(0))
  parts = split(batch, num_microbatches)
  indices = jnp.arange(num_microbatches, dtype=jnp.int32)
  first = jax.tree.map(lambda rows: rows[0], parts)
  zeros = jax.tree.map(
    lambda leaf: jnp.zeros(leaf.shape, leaf.dtype),
    jax.eval_shape(grad_fn, first, indices[0]),
  )

  def add(total, part):
    return jax.tree.map(jnp.add, total, grad_fn(*part)), None

  total, _ = jax.lax.scan(add, zeros, (parts, indices))
  return total


def split(batch: Batch, num_microbatches: int) -> Batch:
  """[batch, ...] -> [num_microbatches, batch / num_microbatches, ...].

  Microbatch i has the rows i, i + num_microbatches, ...: where the rows are
  divided among devices in runs, each device keeps its own.

  Raises:
    ConfigError: the rows do not divide into so many microbatches.
  """
  size = len(next(iter(batch.values())))
  if size % num_microbatches:
    divisors = [str(n) for n in range(1, size + 1) if size % n == 0]
    raise errors.ConfigError(
      f'NUM_MICROBATCHES must divide the batch of {size} rows, got'
      f' {num_microbatches}. Valid: {", ".join(divisors)}.'
    )
  return {
    name: jnp.swapaxes(
      jnp.reshape(rows, (-1, num_microbatches, *rows.shape[1:])), 0, 1
    )
    for name, rows in batch.items()
  }
