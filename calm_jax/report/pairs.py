"""A calibration and its evaluation: what the report is made of.

CalibrationResult, EvaluationResult -> Pair -> tables, page
"""

import dataclasses

from calm_jax import errors
from calm_jax.records import contracts


@dataclasses.dataclass(frozen=True)
class Pair:
  """Two results that belong together.

  Raises:
    DataError: when made, if the evaluation is of another calibration, or the
      calibrated threshold is none of its grid.
  """

  calibration: contracts.CalibrationResult
  evaluation: contracts.EvaluationResult

  def __post_init__(self):
    calibration, evaluation = self.calibration, self.evaluation
    grid = [point.threshold for point in calibration.grid]
    if calibration.threshold not in (grid and [1.0, *grid]):
      raise errors.DataError(
        'The calibrated threshold must be 1 or one of the grid that was tested,'
        f' got {calibration.threshold} and the grid {grid}; run `calm'
        ' calibrate` again.'
      )
    both = {
      'threshold': (calibration.threshold, evaluation.calibrated.threshold),
      'task': (calibration.dump.task, evaluation.task),
    }
    for name in ('tolerance', 'failure_prob', 'consistency', 'metric'):
      both[name] = (getattr(calibration, name), getattr(evaluation, name))
    for name, (calibrated, evaluated) in both.items():
      if calibrated != evaluated:
        raise errors.DataError(
          'The evaluation must be of this calibration, but the calibration has'
          f' {name} {calibrated!r} and the evaluation {evaluated!r}; run'
          ' `calm evaluate` with this calibration.'
        )

  @property
  def failure_prob(self) -> float | None:
    """Of the guarantee; None if it is one on average, which has none."""
    if self.calibration.guarantee == contracts.IN_EXPECTATION:
      return None
    return self.calibration.failure_prob

  @property
  def measure(self) -> contracts.Description:
    """Of confidence."""
    return self.calibration.dump.model.measure

  @property
  def num_decoder_layers(self) -> int:
    return max(len(self.evaluation.layer_histogram), 1)
