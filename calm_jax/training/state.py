"""The training state: what one step changes and a checkpoint holds."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from flax import linen as nn

from calm_jax.training import optimizers

Batch = dict[str, jax.Array]


@flax.struct.dataclass
class TrainState:
  """State between two steps.

  Attributes:
    step: int32 scalar, the number of steps done.
    params: the network's parameters.
    opt_state: the optimizer's state.
  """

  step: jax.Array
  params: Any
  opt_state: Any

  def as_dict(self) -> dict[str, Any]:
    """The tree that a checkpoint stores."""
    return {
      'params': self.params,
      'opt_state': self.opt_state,
      'step': self.step,
    }


def create(
  module: nn.Module,
  optimizer: optimizers.Optimizer,
  rng: jax.Array,
  batch: Batch,
) -> TrainState:
  """Fresh parameters and optimizer state.

  Args:
    module: `t5.network.Transformer`.
    optimizer: from `calm_jax.training.optimizers`.
    rng: key that the parameters are drawn from.
    batch: any batch; only its shapes matter, and they do not affect the result.

  Returns:
    The state before the first step.
  """

  @jax.jit
  def initialize(rng):
    variables = module.init(
      {'params': rng},
      batch['encoder_input_tokens'],
      batch['decoder_input_tokens'],
      batch['decoder_target_tokens'],
      enable_dropout=False,
    )
    params = nn.unbox(variables['params'])
    opt_state = optimizer.transformation.init(params)
    return TrainState(jnp.zeros([], jnp.int32), params, opt_state)

  return initialize(rng)


def num_parameters(params: Any) -> int:
  """Number of scalars in a parameter tree."""
  return sum(leaf.size for leaf in jax.tree.leaves(params))
