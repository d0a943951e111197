"""The limits of a guarantee, in sentences for the page.

CalibrationResult, EvaluationResult -> sentences
"""

from calm_jax.records import contracts
from calm_jax.report import wording


def limits(
  calibration: contracts.CalibrationResult,
  evaluation: contracts.EvaluationResult,
) -> tuple[str, ...]:
  """Returns what the guarantee does not say, a sentence or two each."""
  if not wording.is_certified(calibration):
    return ()
  compared = (
    'Nothing about whether outputs are right: they are compared with the full'
    " model's, right or wrong."
    if calibration.consistency.partition('>')[0] == 'textual'
    else 'Nothing about how good the full model is: the loss is what leaving'
    ' early costs beside it.'
  )
  return (
    'Nothing about each single text: it bounds the mean.'
    f'{_above_tolerance(calibration, evaluation)}',
    'Nothing about texts from another source than the calibration set, or about'
    ' another model or configuration.',
    compared,
    'Nothing about speed, layers or operations: these were measured, on this'
    ' split and this machine.',
    'Nothing about the best of several calibrations, chosen by their results:'
    ' each has its own chance to fail.',
  )


def _above_tolerance(calibration, evaluation) -> str:
  listed = evaluation.example_losses
  if not listed:
    return ''
  above = sum(example.loss > calibration.tolerance for example in listed)
  every = above < len(listed) or len(listed) == evaluation.num_examples
  return (
    f' Of {evaluation.num_examples:,} test texts,'
    f' {"" if every else "at least "}{above:,} lose more than'
    f' {calibration.tolerance:g}.'
  )
