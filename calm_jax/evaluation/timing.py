"""Wall-clock times as records: `speed` measures them, `evaluate` reads them.

They are JSON like the records of `contracts`, so that a speed measured on an
accelerator can be evaluated elsewhere. JAX-free.
"""

import dataclasses

import numpy as np

from calm_jax.records import contracts, json_records, record_checks


@dataclasses.dataclass(frozen=True)
class Timing(json_records.Record):
  """One system's speed per generated token.

  `tokens_timed` counts generated tokens, end of sequence included.
  """

  threshold: float
  speed: contracts.Speed
  tokens_timed: int

  def __post_init__(self):
    record_checks.require(
      self.tokens_timed >= 1,
      f'tokens_timed must be positive, got {self.tokens_timed}',
    )

  @property
  def ms_per_token(self) -> float:
    """All time over all tokens, encoder included."""
    return self.speed.with_encoder.mean


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
    record_checks.require(
      self.full.threshold == 1.0,
      f'the full model runs at threshold 1, got {self.full.threshold}',
    )
    record_checks.require(
      self.batch_size >= 1,
      f'batch_size must be positive, got {self.batch_size}',
    )

  @property
  def speedup(self) -> float:
    """How many times faster the calibrated model makes a token.

    A ratio of totals, each all time over all tokens, encoder included.
    """
    return self.full.ms_per_token / self.calibrated.ms_per_token

  @property
  def decoder_speedup(self) -> float | None:
    """The same without the encoder; None if that was not timed."""
    full, early = self.full.speed.decoder, self.calibrated.speed.decoder
    return None if full is None or early is None else full.mean / early.mean


def milliseconds(
  seconds: np.ndarray, num_tokens: np.ndarray
) -> contracts.Milliseconds | None:
  """Summarizes the time per token of batches.

  Args:
    seconds: [B] of each batch.
    num_tokens: [B], at least 1.

  Returns:
    None if a batch took no time: a difference of times that noise has eaten.
  """
  each = 1e3 * np.asarray(seconds, np.float64) / num_tokens
  if not (each > 0.0).all():
    return None
  lower, median, upper = np.percentile(each, (25, 50, 75)).tolist()
  return contracts.Milliseconds(
    mean=float(1e3 * np.sum(seconds) / np.sum(num_tokens)),
    lower_quartile=lower,
    median=median,
    upper_quartile=upper,
  )
