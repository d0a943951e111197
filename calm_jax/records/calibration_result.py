"""What a calibration found, and what it promises."""

import dataclasses

from calm_jax.records import json_records, record_checks
from calm_jax.records.descriptions import Description
from calm_jax.records.manifest import Provenance

# What a calibration promises: CALM's bound with probability 1 - failure_prob,
# or only that of conformal risk control, on average over calibrations.
HIGH_PROBABILITY = 'with_high_probability'
IN_EXPECTATION = 'in_expectation_only'


@dataclasses.dataclass(frozen=True)
class GridPoint(json_records.Record):
  """One threshold on the calibration split.

  `certified` is the decision of the testing procedure. `mean_layers` is per
  token; `mean_metric` is the task's metric against the references.
  """

  threshold: float
  mean_loss: float
  p_value: float
  certified: bool
  mean_layers: float
  mean_metric: float

  def __post_init__(self):
    record_checks.require_unit(self, 'threshold', 'p_value', 'mean_metric')
    record_checks.require_loss(self, 'mean_loss')


@dataclasses.dataclass(frozen=True, kw_only=True)
class CalibrationResult(json_records.Record):
  """The calibrated threshold and everything that led to it.

  Attributes:
    threshold: the lowest certified threshold; 1.0 if none is, with the reason.
    consistency: one of `CONSISTENCIES`.
    p_value: by which each threshold is tested.
    procedure: decides from the p-values which thresholds are certified.
    grid: [G], in the order tested (thresholds descending).
    dump: what was calibrated on.
    warning: '' or what is doubtful, such as too few examples for this
      tolerance.
    guarantee: `HIGH_PROBABILITY`, or `IN_EXPECTATION`, which is weaker and to
      which the failure probability means nothing.
  """

  threshold: float
  tolerance: float
  failure_prob: float
  consistency: str
  metric: str
  p_value: Description
  procedure: Description
  num_examples: int
  reason: str
  grid: tuple[GridPoint, ...]
  dump: Provenance
  warning: str = ''
  guarantee: str = HIGH_PROBABILITY
  schema_version: int = json_records.RESULTS_VERSION

  def __post_init__(self):
    record_checks.require_guarantee(self)
    record_checks.require_unit(self, 'threshold')
    record_checks.require(
      self.guarantee in (HIGH_PROBABILITY, IN_EXPECTATION),
      f'guarantee must be {HIGH_PROBABILITY!r} or {IN_EXPECTATION!r}, got'
      f' {self.guarantee!r}',
    )
