"""Where exits sit, and the threshold of a token from its position."""

import abc
import dataclasses
from typing import Protocol

import gin
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from calm_jax import errors


@gin.configurable
@dataclasses.dataclass(frozen=True)
class ExitLayers:
  """After which decoder layers a token may leave; the last one it always may.

  Exits sit after layers first_exit, first_exit + exit_interval, ...; of these,
  a run uses the ones from layer min_exit on. T5X counts its `first_exit` from
  0: its value plus 1 is ours.

  Attributes:
    first_exit: layer of the first exit, 1..L.
    exit_interval: layers from one exit to the next.
    min_exit: number of layers that every token uses, 0..L.

  Raises:
    ConfigError: a number below its minimum.
  """

  first_exit: int = 1
  exit_interval: int = 1
  min_exit: int = 0

  def __post_init__(self):
    for name, minimum in (
      ('first_exit', 1),
      ('exit_interval', 1),
      ('min_exit', 0),
    ):
      value = getattr(self, name)
      if type(value) is not int or value < minimum:
        raise errors.ConfigError(
          f'ExitLayers.{name} must be an integer of at least {minimum}, got'
          f' {value!r}.'
        )

  def layers(self, num_layers: int) -> tuple[int, ...]:
    """The exits of a decoder of L layers, ascending; the last is L.

    Raises:
      ConfigError: first_exit or min_exit is beyond the last layer.
    """
    for name in ('first_exit', 'min_exit'):
      if getattr(self, name) > num_layers:
        raise errors.ConfigError(
          f'ExitLayers.{name} must be at most {num_layers}, the number of'
          f' decoder layers, got {getattr(self, name)}.'
        )
    inner = range(self.first_exit, num_layers, self.exit_interval)
    return (*(x for x in inner if x >= self.min_exit), num_layers)


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


@dataclasses.dataclass(frozen=True)
class _Decaying(abc.ABC):
  """Falls with the position; `temperature` is the paper's tau, which uses 4.

  A threshold of 1 stays 1: it stands for the full model by rule, not by
  comparison.

  Raises:
    ConfigError: if the temperature is not positive or not finite.
  """

  temperature: float = 4.0

  def __post_init__(self):
    if not 0 < self.temperature < float('inf'):
      raise errors.ConfigError(
        f'{type(self).__name__}.temperature must be finite and above 0, got'
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
    return jnp.where(
      threshold >= 1.0, threshold, self._decayed(threshold, decay)
    )

  @abc.abstractmethod
  def _decayed(self, threshold: jax.Array, decay: jax.Array) -> jax.Array:
    """The threshold where the exponential has fallen to `decay`."""


@gin.configurable
@dataclasses.dataclass(frozen=True)
class DecayingThreshold(_Decaying):
  """CALM Eq. 5: stricter at the start, where an error spoils all that follows.

  clip_[0,1](9/10 threshold + 1/10 exp(-temperature * position / N)) with N the
  maximum output length. The exponential is not multiplied by the threshold
  (public code multiplies it). Where the paper says tau = 0 it means
  `ConstantThreshold`, not this formula at 0.
  """

  def _decayed(self, threshold, decay):
    return jnp.clip(0.9 * threshold + 0.1 * decay, 0.0, 1.0)


@gin.configurable
@dataclasses.dataclass(frozen=True)
class T5xDecayingThreshold(_Decaying):
  """The decay of public code: threshold (9/10 + exp(-temperature t / N) / 10).

  For comparison with numbers made by it. It starts at the threshold, where CALM
  Eq. 5 (`DecayingThreshold`) starts 0.1 above nine tenths of it; both end at
  nine tenths. T5X's own release passes no position, so its decay does nothing.
  """

  def _decayed(self, threshold, decay):
    return threshold * (0.9 + 0.1 * decay)
