"""Static exit: every token leaves at one layer."""

import dataclasses

import gin
import jax
import jax.numpy as jnp

from calm_jax.early_exit.engine import confidence


@gin.configurable
@dataclasses.dataclass(frozen=True)
class StaticExit(confidence.ConfidenceMeasure):
  """Every token leaves at one layer: the baseline of adaptive compute.

  The confidence after layer i is i / L, so that a threshold of i / L leaves at
  layer i, and a grid of thresholds tries all layers.
  """

  def __call__(self, view: confidence.LayerView) -> confidence.Measurement:
    share = layer_share(view.layer, view.num_layers)
    return confidence.Measurement(
      jnp.full(view.hidden.shape[0], share, jnp.float32)
    )


def layer_share(layer: int | jax.Array, num_layers: int) -> jax.Array:
  """layer / num_layers in float32: i / L for arrays and for Python numbers.

  Both the confidence of `StaticExit` and the thresholds that aim at one of its
  layers come from here: they are compared exactly.
  """
  return jnp.float32(layer) / jnp.float32(num_layers)
