"""Hidden-state saturation: confidence from the states alone."""

import dataclasses
from typing import ClassVar

import gin
import jax.numpy as jnp

from calm_jax.early_exit.engine import confidence


@gin.configurable
@dataclasses.dataclass(frozen=True)
class HiddenStateSaturation(confidence.ConfidenceMeasure):
  """Cosine similarity of the states below and above a layer.

  CALM Sec. 3.5: cos(d^i, d^{i-1}), defined from layer 2 on, per row. Needs no
  logits until the token leaves.

  Attributes:
    rescale: (1 + cosine) / 2 instead of the cosine, so that thresholds in
      [0, 1] reach all of its range; without it a negative cosine reaches none.
  """

  rescale: bool = False

  first_layer: ClassVar[int] = 2

  def __call__(self, view: confidence.LayerView) -> confidence.Measurement:
    above = view.hidden.astype(jnp.float32)
    below = view.previous_hidden.astype(jnp.float32)
    product = jnp.sum(above * below, axis=-1)
    norms = jnp.linalg.norm(above, axis=-1) * jnp.linalg.norm(below, axis=-1)
    # A state of exact zeros has no direction: it counts as not saturated.
    cosine = product / jnp.maximum(norms, 1e-30)
    return confidence.Measurement(
      (1.0 + cosine) / 2.0 if self.rescale else cosine
    )
