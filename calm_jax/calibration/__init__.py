"""Calibration: per-example losses in, a threshold with a guarantee out.

    risks -> p_values -> multiple_testing -> threshold_selection

NumPy and SciPy only; usable alone, for any losses in [0, 1]:

    outcome = calibrate(losses, thresholds, tolerance=0.1, failure_prob=0.05)
    outcome.threshold, outcome.reason

`docs/calibration.md` says what each choice guarantees and when to take it.
"""

from calm_jax.calibration.betting import Betting as Betting
from calm_jax.calibration.betting import StarBets as StarBets
from calm_jax.calibration.conformal_risk_control import (
  ConformalRiskControl as ConformalRiskControl,
)
from calm_jax.calibration.empirical_bernstein import (
  EmpiricalBernstein as EmpiricalBernstein,
)
from calm_jax.calibration.from_dump import calibrate_dump as calibrate_dump
from calm_jax.calibration.from_dumps import (
  calibrate_dump_curve as calibrate_dump_curve,
)
from calm_jax.calibration.from_dumps import (
  calibrate_dump_groups as calibrate_dump_groups,
)
from calm_jax.calibration.from_dumps import choose_dump as choose_dump
from calm_jax.calibration.monitor import Monitor as Monitor
from calm_jax.calibration.multiple_testing import Bonferroni as Bonferroni
from calm_jax.calibration.multiple_testing import FixedSequence as FixedSequence
from calm_jax.calibration.multiple_testing import Holm as Holm
from calm_jax.calibration.multiple_testing import (
  MultiStartFixedSequence as MultiStartFixedSequence,
)
from calm_jax.calibration.p_values import Bentkus as Bentkus
from calm_jax.calibration.p_values import Binomial as Binomial
from calm_jax.calibration.p_values import ChernoffHoeffding as ChernoffHoeffding
from calm_jax.calibration.p_values import Hoeffding as Hoeffding
from calm_jax.calibration.p_values import HoeffdingBentkus as HoeffdingBentkus
from calm_jax.calibration.planning import ExpectedLoss as ExpectedLoss
from calm_jax.calibration.planning import (
  chance_of_certifying as chance_of_certifying,
)
from calm_jax.calibration.planning import (
  num_examples_for_chance as num_examples_for_chance,
)
from calm_jax.calibration.planning import (
  tolerance_for_chance as tolerance_for_chance,
)
from calm_jax.calibration.power import (
  smallest_certifiable_tolerance as smallest_certifiable_tolerance,
)
from calm_jax.calibration.power import (
  smallest_certifying_num_examples as smallest_certifying_num_examples,
)
from calm_jax.calibration.rescaling import Rescaled as Rescaled
from calm_jax.calibration.risks import RiskConsistency as RiskConsistency
from calm_jax.calibration.risks import RiskDifference as RiskDifference
from calm_jax.calibration.risks import TextualConsistency as TextualConsistency
from calm_jax.calibration.several import ParetoTesting as ParetoTesting
from calm_jax.calibration.several import calibrate_curve as calibrate_curve
from calm_jax.calibration.several import calibrate_groups as calibrate_groups
from calm_jax.calibration.tails import loses_more_than as loses_more_than
from calm_jax.calibration.tails import mean_of_worst as mean_of_worst
from calm_jax.calibration.threshold_selection import calibrate as calibrate
