"""Rematerialization: the activations that a layer keeps for the backward pass.

    none     all of them
    minimal  results of matrix products without batch axes, as of projections
    full     the layer's input alone

What is not kept is computed again in the backward pass. The names are those of
T5X's `scalable_t5`; parameters and their names are the same with each.
"""

from typing import Any

import jax
from flax import linen as nn

from calm_jax import errors

POLICIES = {
  'minimal': jax.checkpoint_policies.checkpoint_dots_with_no_batch_dims,
  'full': None,
}
NONE = 'none'


def run_layer(
  policy: str, layer: nn.Module, *arrays: jax.Array, enable_dropout: bool
) -> Any:
  """`layer(*arrays, enable_dropout=enable_dropout)` under a policy.

  Raises:
    ConfigError: a policy that is not known.
  """
  if policy != NONE and policy not in POLICIES:
    raise errors.unknown_name('REMAT_POLICY', policy, [NONE, *POLICIES])

  def run(layer, *arrays):
    return layer(*arrays, enable_dropout=enable_dropout)

  # Initializing has no backward pass.
  if policy == NONE or layer.is_initializing():
    return run(layer, *arrays)
  return nn.remat(run, policy=POLICIES[policy])(layer, *arrays)
