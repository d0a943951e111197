"""A measure that is computed at every exit and never lets a token leave.

For measuring what a measure costs: a token that runs through all layers pays
for all exits.
"""

import dataclasses

import gin
import jax.numpy as jnp

from calm_jax.early_exit.engine import confidence


@gin.configurable
@dataclasses.dataclass(frozen=True)
class NeverExit(confidence.ConfidenceMeasure):
  """Another measure, whose confidences become -1 after they were computed.

  Attributes:
    measure: the one whose cost is asked for.
  """

  measure: confidence.ConfidenceMeasure

  @property
  def first_layer(self):
    return self.measure.first_layer

  @property
  def predicts(self):
    return self.measure.predicts

  def check(self, config, params=None):
    self.measure.check(config, params)

  def prepare(self, config, params):
    return self.measure.prepare(config, params)

  def start_token(self, config, batch_size):
    return self.measure.start_token(config, batch_size)

  def start_sequence(self, config, batch_size, max_decode_length):
    return self.measure.start_sequence(config, batch_size, max_decode_length)

  def __call__(self, view):
    answer = self.measure(view)
    # A minimum keeps the compiler from leaving the confidence out.
    return answer.replace(confidence=jnp.minimum(answer.confidence, -1.0))
