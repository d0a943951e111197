"""The trade-off as tidy rows: one line per split and threshold.

    CalibrationResult, EvaluationResult -> curve_rows -> figures, curves.csv

No matplotlib here, so that the numbers of a figure can be had without it.
"""

import dataclasses

from calm_jax.records import contracts


@dataclasses.dataclass(frozen=True)
class CurveRow:
  """One threshold on one split.

  `p_value` and `certified` are None where nothing was tested: on the test
  split. `chosen` marks the calibrated threshold.
  """

  split: str
  threshold: float
  mean_layers: float
  mean_loss: float
  mean_metric: float
  p_value: float | None
  certified: bool | None
  chosen: bool


def curve_rows(
  calibration: contracts.CalibrationResult,
  evaluation: contracts.EvaluationResult,
) -> tuple[CurveRow, ...]:
  """Returns the calibration grid, then the test split's, thresholds falling."""
  calibrated = [
    CurveRow(
      split=calibration_split(calibration),
      threshold=point.threshold,
      mean_layers=point.mean_layers,
      mean_loss=point.mean_loss,
      mean_metric=point.mean_metric,
      p_value=point.p_value,
      certified=point.certified,
      chosen=point.threshold == calibration.threshold,
    )
    for point in calibration.grid
  ]
  tested = [
    CurveRow(
      split=evaluation.split,
      threshold=point.threshold,
      mean_layers=point.mean_layers,
      mean_loss=point.mean_loss,
      mean_metric=point.mean_metric,
      p_value=None,
      certified=None,
      chosen=point.threshold == calibration.threshold,
    )
    for point in evaluation.curve
  ]
  return (*calibrated, *tested)


def calibration_split(calibration: contracts.CalibrationResult) -> str:
  """Returns the name of the split that was calibrated on."""
  return calibration.dump.split
