"""Wall-clock times as records: `speed` measures them, `evaluate` reads them.

They are JSON like the records of `contracts`, so that a speed measured on an
accelerator can be evaluated elsewhere. NumPy-free, JAX-free.
"""

import dataclasses
import math

from calm_jax import errors, json_records


@dataclasses.dataclass(frozen=True)
class Timing(json_records.Record):
  """One system's speed: wall-clock milliseconds per generated token.

  `tokens_timed` counts generated tokens, end of sequence included.
  """

  threshold: float
  ms_per_token: float
  tokens_timed: int

  def __post_init__(self):
    _require(
      math.isfinite(self.ms_per_token) and self.ms_per_token > 0.0,
      f'ms_per_token must be positive, got {self.ms_per_token}',
    )
    _require(
      self.tokens_timed >= 1,
      f'tokens_timed must be positive, got {self.tokens_timed}',
    )


@dataclasses.dataclass(frozen=True)
class Timings(json_records.Record):
  """Both systems in one run on one machine, so that they can be compared.

  Attributes:
    full: at threshold 1.
    calibrated: at the calibrated threshold.
    batch_size: sequences decoded together.
    machine: in words, for the report.
  """

  full: Timing
  calibrated: Timing
  batch_size: int
  machine: str

  def __post_init__(self):
    _require(
      self.full.threshold == 1.0,
      f'the full model runs at threshold 1, got {self.full.threshold}',
    )
    _require(
      self.batch_size >= 1,
      f'batch_size must be positive, got {self.batch_size}',
    )

  @property
  def speedup(self) -> float:
    """How many times faster the calibrated model makes a token."""
    return self.full.ms_per_token / self.calibrated.ms_per_token


def _require(condition: bool, message: str) -> None:
  if not condition:
    raise errors.DataError(f'{message}.')
