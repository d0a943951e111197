"""Softmax response and its kin: confidences of a layer's own prediction.

Each costs one product with the whole output embedding per layer.
"""

import dataclasses
from typing import ClassVar

import gin
import jax
import jax.numpy as jnp

from calm_jax.early_exit.engine import confidence


@gin.configurable
@dataclasses.dataclass(frozen=True)
class SoftmaxTopTwoGap(confidence.ConfidenceMeasure):
  """Softmax response: the difference of the two largest probabilities.

  CALM Sec. 3.5. Costs one product with the output embedding per layer.
  """

  predicts: ClassVar[bool] = True

  def __call__(self, view: confidence.LayerView) -> confidence.Measurement:
    prediction = view.predict(view.logits())
    return confidence.Measurement(prediction.gap, prediction)


@gin.configurable
@dataclasses.dataclass(frozen=True)
class SoftmaxMaximum(confidence.ConfidenceMeasure):
  """The largest probability of the softmax. Costs what the gap costs."""

  predicts: ClassVar[bool] = True

  def __call__(self, view: confidence.LayerView) -> confidence.Measurement:
    logits = view.logits().astype(jnp.float32)
    highest = jnp.max(logits, axis=-1, keepdims=True)
    maximum = 1.0 / jnp.sum(jnp.exp(logits - highest), axis=-1)
    return confidence.Measurement(maximum, view.predict(logits))


@gin.configurable
@dataclasses.dataclass(frozen=True)
class SoftmaxEntropy(confidence.ConfidenceMeasure):
  """1 - entropy / log(vocabulary): 1 is certain, 0 is a uniform guess."""

  predicts: ClassVar[bool] = True

  def __call__(self, view: confidence.LayerView) -> confidence.Measurement:
    logits = view.logits().astype(jnp.float32)
    log_probs = jax.nn.log_softmax(logits)
    entropy = -jnp.sum(jnp.exp(log_probs) * log_probs, axis=-1)
    certainty = 1.0 - entropy / jnp.log(logits.shape[-1])
    return confidence.Measurement(
      jnp.clip(certainty, 0.0, 1.0), view.predict(logits)
    )
