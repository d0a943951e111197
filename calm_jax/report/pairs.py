"""A calibration and its evaluation: what the report is made of.

CalibrationResult, EvaluationResult -> Pair -> tables, page
"""

import dataclasses

from calm_jax import contracts, errors


@dataclasses.dataclass(frozen=True)
class Pair:
  """Two results that belong together.

  Raises:
    DataError: when made, if the evaluation is of another calibration.
  """

  calibration: contracts.CalibrationResult
  evaluation: contracts.EvaluationResult

  def __post_init__(self):
    calibration, evaluation = self.calibration, self.evaluation
    both = {
      'threshold': (calibration.threshold, evaluation.calibrated.threshold),
      'task': (calibration.dump.get('task'), evaluation.task),
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
  def measure(self) -> str:
    """repr of the confidence measure; '' in files that do not tell it."""
    return self.calibration.dump.get('measure', '')

  @property
  def num_decoder_layers(self) -> int:
    return max(len(self.evaluation.layer_histogram), 1)
