"""What the layers that a token skipped see of it.

Their keys and values come from a state that the token did reach, through each
layer's own norm and kernels.
"""

import dataclasses
from typing import Protocol

import gin
import jax


class Propagation(Protocol):
  """Chooses the state that stands in for the skipped ones."""

  def __call__(
    self, hidden: jax.Array, propagated: jax.Array, up_to_first_exit: bool
  ) -> jax.Array:
    """The stand-in after a layer.

    Args:
      hidden: [batch, embed], the state above the layer, or the one in which a
        row left below it.
      propagated: [batch, embed], the stand-in before the layer.
      up_to_first_exit: whether the layer is the first exit's or below it.
    """
    ...


@gin.configurable
@dataclasses.dataclass(frozen=True)
class ExitState:
  """The state in which the token left (CALM Sec. 3.3.1)."""

  def __call__(self, hidden, propagated, up_to_first_exit):
    del propagated, up_to_first_exit
    return hidden


@gin.configurable
@dataclasses.dataclass(frozen=True)
class FirstExitState:
  """The state at the first exit, wherever the token left.

  Not what the paper says, but what T5X's released code does; for comparison
  with numbers made by it.
  """

  def __call__(self, hidden, propagated, up_to_first_exit):
    return hidden if up_to_first_exit else propagated
