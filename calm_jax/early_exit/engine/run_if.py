"""A condition that leaves large arrays where they are.

`lax.cond` copies what its branches pass through: on a CPU, XLA copied the
caches of all layers at every exit. The carry of a `lax.while_loop` stays in
place, whether the loop runs or not; so here a condition is a loop of at most
one turn.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool


def run_if(
  predicate: Bool[Array, ''], function: Callable[[Any], Any], carried: Any
) -> Any:
  """`function(carried)` where the predicate holds, else `carried`.

  Args:
    predicate: a scalar.
    function: gives a tree of the same shapes and types.
    carried: a tree of arrays.
  """

  def body(state):
    return jnp.zeros((), bool), function(state[1])

  return lax.while_loop(lambda x: x[0], body, (predicate, carried))[1]


def zeros_like_result(function: Callable, *args: Any) -> Any:
  """Zeros of the shapes and types of `function(*args)`, which is not run."""
  return jax.tree.map(
    lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(function, *args)
  )
