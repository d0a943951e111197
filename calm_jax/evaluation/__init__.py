"""Evaluation of a calibrated threshold on a split that it has not seen.

    test dump, CalibrationResult, Timings -> evaluate -> EvaluationResult

NumPy and SciPy only. `speed` measures the timings and is handed whatever needs
an accelerator.
"""

from calm_jax.evaluation.bounds import (
  mean_loss_upper_bound as mean_loss_upper_bound,
)
from calm_jax.evaluation.evaluate import evaluate as evaluate
from calm_jax.evaluation.timing import Timing as Timing
from calm_jax.evaluation.timing import Timings as Timings
