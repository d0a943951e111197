"""Calibration: per-example losses in, a threshold with a guarantee out.

    risks -> p_values -> multiple_testing -> learn_then_test

NumPy and SciPy only; usable alone, for any losses in [0, 1]:

    outcome = calibrate(losses, thresholds, tolerance=0.1, failure_prob=0.05)
    outcome.threshold, outcome.reason
"""

from calm_jax.calibration.learn_then_test import calibrate as calibrate
from calm_jax.calibration.learn_then_test import (
  calibrate_dump as calibrate_dump,
)
from calm_jax.calibration.multiple_testing import FixedSequence as FixedSequence
from calm_jax.calibration.p_values import Bentkus as Bentkus
from calm_jax.calibration.p_values import ChernoffHoeffding as ChernoffHoeffding
from calm_jax.calibration.p_values import Hoeffding as Hoeffding
from calm_jax.calibration.p_values import HoeffdingBentkus as HoeffdingBentkus
from calm_jax.calibration.power import (
  smallest_certifiable_tolerance as smallest_certifiable_tolerance,
)
from calm_jax.calibration.power import (
  smallest_certifying_num_examples as smallest_certifying_num_examples,
)
from calm_jax.calibration.risks import RiskConsistency as RiskConsistency
from calm_jax.calibration.risks import TextualConsistency as TextualConsistency
