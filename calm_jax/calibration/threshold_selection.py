"""Chooses the exit threshold: losses in, the lowest certified threshold out.

    losses -> p_values -> multiple_testing -> Outcome

Guarantee (CALM, by Learn-then-Test): with probability at least
1 - failure_prob over the draw of the calibration examples, the expected loss of
a new example at the returned threshold is at most the tolerance. It needs
calibration and new examples from one distribution, and a grid and order fixed
before the losses were seen.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from calm_jax.calibration import (
  choices,
  conformal_risk_control,
  grids,
  guarantee,
  loss_ranges,
  multiple_testing,
  outcomes,
  p_values,
  power,
)


def calibrate(
  losses: np.ndarray,
  thresholds: Sequence[float],
  tolerance: float,
  failure_prob: float,
  p_value: p_values.PValue = p_values.DEFAULT,
  procedure: choices.Procedure = multiple_testing.DEFAULT,
  example_ids: Sequence[str] | np.ndarray | None = None,
  loss_range: loss_ranges.LossRange | None = None,
) -> outcomes.Outcome:
  """Returns the lowest threshold that keeps the guarantee.

  Args:
    losses: [N, G], of independent examples; 0 at threshold 1.
    thresholds: [G] within [0, 1]; tested from the highest to the lowest.
    tolerance: bound on the expected loss (delta in CALM, alpha in LTT).
    failure_prob: probability with which the bound may fail (epsilon, delta).
    p_value: for each threshold.
    procedure: decides with all p-values in hand. `ConformalRiskControl` gives
      the weaker guarantee of its module, and uses neither `failure_prob` nor
      the p-values, which are then reported only.
    example_ids: [N], for messages.
    loss_range: the numbers that a loss may be, where that is known beforehand;
      else losses that `p_value` accepts are taken.

  Raises:
    ConfigError: tolerance or failure probability outside (0, 1) or swapped, no
      thresholds or one outside [0, 1], a p-value that does not hold for the
      loss range.
    DataError: no examples, losses of another shape, not finite, outside their
      range or not 0 at threshold 1.
  """
  guarantee.check_guarantee(tolerance, failure_prob)
  grid = grids.sort_thresholds(thresholds)
  if loss_range is not None:
    choices.check_holds(p_value, loss_range)
  losses = grids.sort_losses(
    losses, thresholds, grid, loss_range or p_value.accepts, example_ids
  )
  # Threshold 1 is the full model itself: its loss is 0, not just on average.
  tested = grid.thresholds < 1.0
  values = np.zeros(len(tested))
  values[tested] = p_value(losses[:, tested], tolerance)
  certified = np.ones(len(tested), bool)
  if isinstance(procedure, conformal_risk_control.ConformalRiskControl):
    certified[tested] = procedure(losses[:, tested], tolerance)
  else:
    certified[tested] = procedure(values[tested], failure_prob)
  too_few = warning_before(
    len(losses), tested.sum(), tolerance, failure_prob, p_value, procedure
  )
  outcome = outcomes.Outcome(
    threshold=float(grid.thresholds[certified].min(initial=1.0)),
    reason='',
    warning=' '.join(filter(None, (grid.warning, too_few))),
    thresholds=grid.thresholds,
    mean_losses=losses.mean(axis=0),
    p_values=values,
    certified=certified,
    num_examples=len(losses),
  )
  return dataclasses.replace(
    outcome,
    reason=outcomes.explain(outcome, procedure, tolerance, failure_prob),
  )


def warning_before(
  num_examples: int,
  num_thresholds: int,
  tolerance: float,
  failure_prob: float,
  p_value: p_values.PValue = p_values.DEFAULT,
  procedure: choices.Procedure = multiple_testing.DEFAULT,
) -> str:
  """Returns '' or what is doubtful before any loss is known.

  Args:
    num_examples: N.
    num_thresholds: below 1, that will be tested.
    tolerance, failure_prob, p_value, procedure: as for `calibrate`.
  """
  if isinstance(procedure, conformal_risk_control.ConformalRiskControl):
    too_few = procedure.warning(num_examples, tolerance)
  else:
    level = procedure.first_level(failure_prob, max(1, num_thresholds))
    too_few = power.warning(num_examples, tolerance, level, p_value)
  return ' '.join(filter(None, (guarantee.doubt(tolerance), too_few)))
