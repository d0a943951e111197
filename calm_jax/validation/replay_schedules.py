"""The schedules of `early_exit.schedule` once more, in NumPy.

For `replay`, which needs no accelerator library; tests hold the two together.
"""

import abc
import dataclasses

import numpy as np

from calm_jax import errors
from calm_jax.records import descriptions


@dataclasses.dataclass(frozen=True)
class Constant:
  """The same threshold at every position."""

  def __call__(
    self, thresholds: np.ndarray, max_decode_length: int
  ) -> np.ndarray:
    """[G] -> [G, T], the thresholds in force at each position."""
    return np.tile(
      np.asarray(thresholds, np.float32)[:, None], (1, max_decode_length)
    )


@dataclasses.dataclass(frozen=True)
class _Decay(abc.ABC):
  """Stricter at the start; a threshold of 1 stays 1, the full model, by rule.

  Attributes:
    temperature: tau.
  """

  temperature: float = 4.0

  def __call__(
    self, thresholds: np.ndarray, max_decode_length: int
  ) -> np.ndarray:
    """[G] -> [G, T], the thresholds in force at each position."""
    thresholds = np.asarray(thresholds, np.float32)[:, None]
    positions = np.arange(max_decode_length, dtype=np.float32)
    decay = np.exp(
      np.float32(-self.temperature) * positions / max_decode_length
    )
    decayed = self._decayed(thresholds, np.float32(0.1) * decay)
    return np.where(thresholds >= 1.0, thresholds, decayed)

  @abc.abstractmethod
  def _decayed(self, thresholds: np.ndarray, tenth: np.ndarray) -> np.ndarray:
    """[G, 1] thresholds and [T], from 1/10 to nearly 0, -> [G, T]."""


class Decaying(_Decay):
  """CALM Eq. 5: clip_[0,1](9/10 threshold + 1/10 exp(-temperature t / N))."""

  def _decayed(self, thresholds, tenth):
    return np.clip(np.float32(0.9) * thresholds + tenth, 0.0, 1.0)


class T5xDecaying(_Decay):
  """Public code: threshold (9/10 + 1/10 exp(-temperature t / N))."""

  def _decayed(self, thresholds, tenth):
    return thresholds * (np.float32(0.9) + tenth)


Schedule = Constant | Decaying | T5xDecaying

_BY_KIND: dict[str, type[Schedule]] = {
  'ConstantThreshold': Constant,
  'DecayingThreshold': Decaying,
  'T5xDecayingThreshold': T5xDecaying,
}


def schedule_of(schedule: descriptions.Description) -> Schedule:
  """The schedule that a model's description names.

  Raises:
    DataError: it is none of this module's.
  """
  if schedule.kind not in _BY_KIND:
    raise errors.DataError(
      f'Only the schedules {list(_BY_KIND)} can be replayed, got {schedule}.'
    )
  return _BY_KIND[schedule.kind](**schedule.knobs)
