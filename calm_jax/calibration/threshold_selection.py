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
  p_value: p_values.PValue | str | None = None,
  procedure: choices.Procedure | str = multiple_testing.DEFAULT,
  example_ids: Sequence[str] | np.ndarray | None = None,
  loss_range: loss_ranges.LossRange | None = None,
) -> outcomes.Outcome:
  """Returns the lowest threshold that keeps the guarantee.

  Args:
    losses: [N, G], of independent examples; 0 at threshold 1. An array of bool
      says that losses are 0 or 1.
    thresholds: [G] within [0, 1]; tested from the highest to the lowest.
    tolerance: bound on the expected loss (delta in CALM, alpha in LTT). 0 or
      less needs a `loss_range` with negative losses.
    failure_prob: probability with which the bound may fail (epsilon, delta).
    p_value: for each threshold, or its name in `choices.P_VALUES`. None: the
      binomial one for losses of 0 or 1, else `betting.StarBets`.
    procedure: decides with all p-values in hand, or its name in
      `choices.PROCEDURES`. `ConformalRiskControl` gives the weaker guarantee of
      its module, and uses neither `failure_prob` nor the p-values, which are
      then reported only.
    example_ids: [N], for messages.
    loss_range: the numbers that a loss may be, where that is known beforehand;
      else those that `p_value` accepts, and [0, 1] without one.

  Raises:
    ConfigError: tolerance or failure probability out of range or swapped, no
      thresholds or one outside [0, 1], a choice that does not exist, a p-value
      that does not hold for the loss range.
    DataError: no examples, losses of another shape, masked, not finite, outside
      their range or not 0 at threshold 1.
  """
  if loss_range is None and getattr(losses, 'dtype', None) == np.bool_:
    loss_range = loss_ranges.ZERO_OR_ONE
  guarantee.check_guarantee(
    tolerance, failure_prob, loss_range or loss_ranges.UNIT
  )
  procedure = choices.get_procedure(procedure)
  grid = grids.sort_thresholds(thresholds)
  # Threshold 1 is the full model itself: its loss is 0, not just on average.
  tested = grid.thresholds < 1.0
  allowed = loss_range or _accepted(p_value, procedure)
  p_value = _aimed(p_value, procedure, failure_prob, tested.sum(), loss_range)
  losses = grids.sort_losses(losses, thresholds, grid, allowed, example_ids)
  keeps = tolerance >= 0.0
  values = np.full(len(tested), 0.0 if keeps else 1.0)
  values[tested] = p_value(losses[:, tested], tolerance)
  certified = np.full(len(tested), keeps)
  if isinstance(procedure, conformal_risk_control.ConformalRiskControl):
    certified[tested] = procedure(losses[:, tested], tolerance)
  else:
    certified[tested] = procedure(values[tested], failure_prob)
  too_few = warning_before(
    len(losses), tested.sum(), tolerance, failure_prob, p_value, procedure
  )
  outcome = outcomes.Outcome(
    threshold=_lowest(grid.thresholds[certified], tolerance),
    reason='',
    warning=' '.join(filter(None, (grid.warning, too_few))),
    thresholds=grid.thresholds,
    mean_losses=losses.mean(axis=0),
    p_values=values,
    certified=certified,
    num_examples=len(losses),
    p_value=p_value,
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
  p_value: p_values.PValue = choices.DEFAULT_P_VALUE,
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
    level = choices.first_level(procedure, failure_prob, num_thresholds)
    too_few = power.warning(num_examples, tolerance, level, p_value)
  return ' '.join(filter(None, (guarantee.doubt(tolerance), too_few)))


def _accepted(
  p_value: p_values.PValue | str | None, procedure: choices.Procedure
) -> loss_ranges.LossRange:
  """The losses that are taken where nobody says what they may be."""
  if p_value is not None:
    return choices.get_p_value(p_value).accepts
  if isinstance(procedure, conformal_risk_control.ConformalRiskControl):
    return procedure.accepts
  return loss_ranges.UNIT


def _aimed(
  p_value: p_values.PValue | str | None,
  procedure: choices.Procedure,
  failure_prob: float,
  num_thresholds: int,
  loss_range: loss_ranges.LossRange | None,
) -> p_values.PValue:
  """The p-value, its bets aimed at the level that is tested first."""
  if loss_range is None:
    p_value = choices.get_p_value(
      choices.DEFAULT_P_VALUE if p_value is None else p_value
    )
  else:
    p_value = choices.settle_p_value(p_value, loss_range)
  return p_value.aimed_at(
    choices.first_level(procedure, failure_prob, num_thresholds)
  )


def _lowest(certified: np.ndarray, tolerance: float) -> float | None:
  """The lowest certified threshold, else the full model if it will do."""
  if len(certified):
    return float(certified.min())
  return 1.0 if tolerance >= 0.0 else None
