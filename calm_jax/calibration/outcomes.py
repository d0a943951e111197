"""What a calibration decided, and why, in words."""

import dataclasses

import numpy as np

from calm_jax.calibration import choices, conformal_risk_control, p_values

# `Outcome` has a field of the module's name.
_PValue = p_values.PValue


@dataclasses.dataclass(frozen=True, eq=False)
class Outcome:
  """What `calibrate` decided.

  Attributes:
    threshold: the lowest certified one; 1.0 (the full model) if none is; None
      if the full model breaks the promise too, as one to be better than it.
    reason: one or two sentences on why it is this one.
    warning: '' or what is doubtful, such as too few examples.
    thresholds: [G], as tested: descending.
    mean_losses, p_values, certified: [G], for the whole grid. At threshold 1
      there is nothing to test, so its p-value is 0, or 1 if its loss of 0 is
      above the tolerance.
    num_examples: N.
    p_value: that was used, with all its knobs.
  """

  threshold: float | None
  reason: str
  warning: str
  thresholds: np.ndarray
  mean_losses: np.ndarray
  p_values: np.ndarray
  certified: np.ndarray
  num_examples: int
  p_value: _PValue


def explain(
  outcome: Outcome,
  procedure: choices.Procedure,
  tolerance: float,
  failure_prob: float,
) -> str:
  """Returns why it is this threshold: how the next lower one failed."""
  reached = 1.0 if outcome.threshold is None else outcome.threshold
  below = np.flatnonzero(outcome.thresholds < reached)
  chosen, n = f'{reached:g}', outcome.num_examples
  if not len(below):
    every = 'Every threshold down to ' if outcome.certified.all() else ''
    text = f'{every}{chosen}, the end of the grid, is certified on {n} examples'
  else:
    failure = _failure(outcome, below[0], procedure, failure_prob)
    if outcome.threshold is None:
      text = (
        'Nothing is certified: the full model, whose loss is 0, breaks a'
        f' tolerance of {tolerance:g} itself, and {failure}'
      )
    elif outcome.threshold < 1.0:
      text = (
        f'{chosen} is the last certified threshold for a tolerance of'
        f' {tolerance:g}: {failure}'
      )
    else:
      text = (
        'No threshold below 1 is certified for a tolerance of'
        f' {tolerance:g}, so the full model is kept: {failure}'
      )
  if isinstance(procedure, conformal_risk_control.ConformalRiskControl):
    return f'{conformal_risk_control.GUARANTEE} {text}.'
  return f'{text}.'


def _failure(
  outcome: Outcome,
  column: int,
  procedure: choices.Procedure,
  failure_prob: float,
) -> str:
  failure = (
    f'at {outcome.thresholds[column]:g} the mean loss on'
    f' {outcome.num_examples} examples is {outcome.mean_losses[column]:.4f} and'
  )
  p_value = outcome.p_values[column]
  if isinstance(procedure, conformal_risk_control.ConformalRiskControl):
    return (
      f'{failure} that of the monotone losses, with one more example of loss 1,'
      ' is above the tolerance'
    )
  if p_value > failure_prob:
    return (
      f'{failure} the p-value {p_value:.3g} is above the failure probability'
      f' {failure_prob:g}'
    )
  return (
    f'{failure} the p-value {p_value:.3g} is too large for {procedure!r} at'
    f' failure probability {failure_prob:g}'
  )
