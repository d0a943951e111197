"""The plan of a study: measures and their thresholds, chosen by gin."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import gin

from calm_jax import errors

# Fine near 1, where strict tolerances are decided.
THRESHOLDS = (1.0, 0.99, 0.97, 0.95, 0.9, 0.8, 0.65, 0.5, 0.35, 0.2, 0.0)


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Sweep:
  """One measure and the thresholds that it is run at.

  Attributes:
    measure: from `calm_jax.early_exit`.
    thresholds: strictly descending; 1, the full model, is put before them.
  """

  measure: Any
  thresholds: Sequence[float] = THRESHOLDS

  def __post_init__(self):
    grid = tuple(float(x) for x in self.thresholds if x != 1.0)
    object.__setattr__(self, 'thresholds', (1.0, *grid))


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Plan:
  """All that a study runs.

  Attributes:
    sweeps: name in tables and figures -> sweep.
    recall_ks: values of K for which recall is counted.
    loss_limit: the curves by position, and the histogram of exits, are of each
      measure's lowest threshold whose mean textual loss stays within it.

  Raises:
    ConfigError: nothing to run, or a limit outside (0, 1).
  """

  sweeps: Mapping[str, Sweep]
  recall_ks: Sequence[int] = (2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
  loss_limit: float = 0.05

  def __post_init__(self):
    if not self.sweeps:
      raise errors.ConfigError('A study needs at least one sweep; got none.')
    if not 0.0 < self.loss_limit < 1.0:
      raise errors.ConfigError(
        f'Plan.loss_limit must be in (0, 1), got {self.loss_limit}.'
      )
