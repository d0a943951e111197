"""The oracle: leave at the first layer that agrees with the last one.

For analysis only: it has to run all layers to know where it could have left, so
it says how much early exit could save at most, not how to save it.

    all layers without a trace in the cache -> first agreeing layer of each row
                                            -> the token once more, up to there

The second pass is `StaticExit` with one layer per row, so later tokens see what
they would see of a token that truly left there. `true_cache_layers` needs no
second pass: if the upper layers keep their true states, the tokens are the full
model's, and its trace tells the rest.
"""

import dataclasses
from typing import ClassVar

import gin
import jax.numpy as jnp
import numpy as np
from flax import struct

from calm_jax.early_exit.engine import confidence, decoder_state, layer_loop
from calm_jax.early_exit.measures import static as static_measure


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Oracle(confidence.ConfidenceMeasure):
  """Chooses the oracle where a model takes a confidence measure.

  At any threshold below 1 a token leaves at the first layer whose best token is
  the last layer's (CALM Sec. 3.5), with the exit states of earlier tokens in
  the caches of the layers that they skipped.
  """

  predicts: ClassVar[bool] = True

  def __call__(self, view: confidence.LayerView) -> confidence.Measurement:
    # What the first pass asks of each layer: its best token, for the trace.
    prediction = view.predict(view.logits())
    return confidence.Measurement(jnp.zeros_like(prediction.gap), prediction)


@struct.dataclass
class OracleDecoder:
  """Stands in for an `EarlyExitDecoder` whose measure is the `Oracle`.

  Attributes:
    decoder: over the same parameters.
  """

  decoder: layer_loop.EarlyExitDecoder

  def constants(self, *args):
    """As `EarlyExitDecoder.constants`."""
    return self.decoder.constants(*args)

  def empty_cache(self, *args):
    """As `EarlyExitDecoder.empty_cache`."""
    return self.decoder.empty_cache(*args)

  def restarted(self, *args):
    """As `EarlyExitDecoder.restarted`."""
    return self.decoder.restarted(*args)

  def __call__(self, fed, thresholds, constants, cache, sample_keys=None):
    """As `EarlyExitDecoder.__call__`, greedily."""
    all_layers, _ = self.decoder.replace(trace=True)(
      fed, jnp.ones_like(thresholds), constants, cache, sample_keys
    )
    num_layers = self.decoder.config.num_decoder_layers
    exits = np.array(self.decoder.exit_layers.layers(num_layers))
    trace = all_layers.trace_tokens
    agrees = trace[:, exits - 1] == trace[:, -1:]
    layer = jnp.asarray(exits)[jnp.argmax(agrees, axis=1)]
    chosen = static_measure.layer_share(layer, num_layers)
    static = self.decoder.replace(
      measure=static_measure.StaticExit(), trace=False
    )
    thresholds = jnp.where(thresholds < 1.0, chosen, 1.0)
    result, cache = static(fed, thresholds, constants, cache, sample_keys)
    if not self.decoder.trace:
      return result, cache
    return result.replace(
      trace_confidences=all_layers.trace_confidences, trace_tokens=trace
    ), cache


def true_cache_layers(trace_tokens: np.ndarray) -> np.ndarray:
  """Layers of the oracle that keeps the true states of the upper layers.

  Args:
    trace_tokens: [..., layers], every layer's best token along the full model's
      output, as a dump at threshold 1 holds it; NOT_RUN where there is no
      token.

  Returns:
    [...] layers used, 1..L, 0 where there is no token.
  """
  agrees = trace_tokens == trace_tokens[..., -1:]
  is_token = trace_tokens[..., -1] != decoder_state.NOT_RUN
  return np.where(is_token, 1 + np.argmax(agrees, axis=-1), 0)
