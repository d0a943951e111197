"""Threshold schedules: the exit threshold of a token from its position."""

import dataclasses
from typing import Protocol

import gin
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from calm_jax import errors


class ThresholdSchedule(Protocol):
  """Maps a row's threshold and a position to the threshold in force there."""

  def __call__(
    self, threshold: jax.Array, position: jax.Array, max_decode_length: int
  ) -> jax.Array:
    """[batch], 0-based position -> [batch]."""
    ...


@gin.configurable
@dataclasses.dataclass(frozen=True)
class ConstantThreshold:
  """The same threshold at every position."""

  def __call__(self, threshold, position, max_decode_length):
    """[batch] -> [batch], unchanged."""
    del position, max_decode_length
    return threshold


@gin.configurable
@dataclasses.dataclass(frozen=True)
class DecayingThreshold:
  """CALM Eq. 5: stricter at the start, where an error spoils all that follows.

  clip_[0,1](9/10 threshold + 1/10 exp(-temperature * position / N)) with N the
  maximum output length. The exponential is not multiplied by the threshold
  (public code multiplies it). A threshold of 1 stays 1: it stands for the full
  model by rule, not by comparison.

  Attributes:
    temperature: tau of the paper, which uses 4. Where it says 0 it means
      `ConstantThreshold`, not this formula at 0.

  Raises:
    ConfigError: if the temperature is not positive or not finite.
  """

  temperature: float = 4.0

  def __post_init__(self):
    if not 0 < self.temperature < float('inf'):
      raise errors.ConfigError(
        'DecayingThreshold.temperature must be finite and above 0, got'
        f' {self.temperature}; for a threshold that does not decay use'
        ' ConstantThreshold.'
      )

  def __call__(
    self,
    threshold: Float[Array, ' batch'],
    position: jax.Array,
    max_decode_length: int,
  ) -> Float[Array, ' batch']:
    """[batch], 0-based position -> [batch]."""
    decay = jnp.exp(-self.temperature * position / max_decode_length)
    decayed = jnp.clip(0.9 * threshold + 0.1 * decay, 0.0, 1.0)
    return jnp.where(threshold >= 1.0, threshold, decayed)
