"""What the numbers say, in sentences: shared by the page and the terminal.

Pure functions from the two results to text.
"""

import dataclasses

from calm_jax.records import contracts

_METRICS = {
  'calm_jax.evaluation.bleurt:score': 'BLEURT',
  'chrf': 'chrF',
  'exact_match': 'exact match',
  'rouge_1': 'ROUGE-1',
  'rouge_2': 'ROUGE-2',
  'rouge_l': 'ROUGE-L',
  'sentence_bleu': 'sentence BLEU',
  'squad_exact_match': 'SQuAD exact match',
  'squad_f1': 'SQuAD F1',
  'token_f1': 'token F1',
}
# Of a whole split (`calm_jax.data.t5_metrics`).
_SPLIT_SCORES = {
  'bleu': 'BLEU',
  'em': 'SQuAD exact match',
  'f1': 'SQuAD F1',
  'rouge1': 'ROUGE-1',
  'rouge2': 'ROUGE-2',
  'rougeLsum': 'ROUGE-Lsum',
}


def metric_name(metric: str) -> str:
  """Returns the metric's name as papers write it."""
  return _METRICS.get(metric, metric)


def split_score_name(score: str) -> str:
  """Returns the name of a score of a whole split as papers write it."""
  return _SPLIT_SCORES.get(score, score)


def ratio(value: float | None) -> str:
  """Two decimals; '-' where the number is not known."""
  return '-' if value is None else f'{value:.2f}'


def millions(value: float) -> str:
  """About three significant digits, in millions."""
  return milliseconds(value / 1e6)


def number(value: float) -> str:
  """Three decimals for losses and scores; 0 and 1 exactly as such."""
  return f'{value:g}' if value in (0.0, 1.0) else f'{value:.3f}'


def layers(value: float) -> str:
  """Layers per token: two decimals, none for a whole number."""
  return f'{value:.0f}' if value == int(value) else f'{value:.2f}'


def milliseconds(value: float) -> str:
  """About three significant digits."""
  return f'{value:.{0 if value >= 100 else 1 if value >= 10 else 2}f}'


def percent(share: float) -> str:
  """Returns a share as a percentage without superfluous digits."""
  return f'{100 * share:.4g}%'


def confidence(failure_prob: float) -> str:
  """Returns 1 - failure_prob as a percentage, never rounded up to 100%."""
  return f'{100 * (1 - failure_prob):.10g}%'


def is_certified(calibration: contracts.CalibrationResult) -> bool:
  """Whether any threshold below 1 is certified."""
  return calibration.threshold < 1.0


def loss_name(result: contracts.EvaluationResult) -> str:
  """Returns what one example's loss is."""
  metric = metric_name(result.metric)
  kind, _, limit = result.consistency.partition('>')
  if limit:
    whole = dataclasses.replace(result, consistency=kind)
    return f'1 if a text loses more than {limit}, else 0, of {loss_name(whole)}'
  if kind == 'textual':
    return f"1 \u2212 {metric} against the full model's output"
  lost = f'{metric} lost against the reference, compared with the full model'
  if result.consistency == 'risk_difference':
    return f'{lost}; what a text gains counts against what others lose'
  return lost


def headline(
  calibration: contracts.CalibrationResult,
  evaluation: contracts.EvaluationResult,
) -> str:
  """Returns the result in one line."""
  if not is_certified(calibration):
    return 'No early exit is certified, so the full model is kept'
  return (
    f'{evaluation.speedup:.2g}\u00d7 the speed of the full model, with'
    f' {evaluation.calibrated.mean_layers:.1f} of'
    f' {evaluation.full.mean_layers:.0f} decoder layers per token'
  )


def guarantee(
  calibration: contracts.CalibrationResult,
  evaluation: contracts.EvaluationResult,
) -> str:
  """Returns what is promised, in plain words."""
  if not is_certified(calibration):
    return calibration.reason
  bound = f'at most {calibration.tolerance:g}, where the loss is'
  if calibration.guarantee == contracts.IN_EXPECTATION:
    return (
      f'On average over calibration sets of {calibration.num_examples:,}'
      f' examples, the loss of a new text is {bound} {loss_name(evaluation)}.'
      ' This is a bound in expectation only: it does not say how likely it is'
      ' that this calibration set chose a threshold that loses more.'
    )
  return (
    f'With probability at least {confidence(calibration.failure_prob)} over'
    f' the draw of the calibration set ({calibration.num_examples:,} examples),'
    f' the expected loss of a new text is {bound} {loss_name(evaluation)}.'
  )


def measured(
  calibration: contracts.CalibrationResult,
  evaluation: contracts.EvaluationResult,
) -> str:
  """Returns what the test split says about the promise."""
  if not is_certified(calibration):
    return calibration.warning
  row, tolerance = evaluation.calibrated, calibration.tolerance
  facts = (
    f'On {evaluation.num_examples:,} unseen examples of the'
    f' {evaluation.split} split the mean loss is {number(row.mean_loss)}, and'
    f' with 95% confidence the expected loss is at most'
    f' {number(row.loss_upper_95)}'
  )
  if row.loss_upper_95 <= tolerance:
    return f'{facts}: within the tolerance.'
  if row.mean_loss <= tolerance:
    return (
      f'{facts}: the mean is within the tolerance, but the split is too small'
      ' to confirm it by itself.'
    )
  # A mean of one split may exceed what the expected loss does not.
  return (
    f'{facts}. The mean is above the tolerance: by the chance of this split,'
    ' which no guarantee bounds, or that of the calibration'
    f'{_left_to_chance(calibration)}, or because the two splits do not come'
    ' from one distribution.'
  )


def _left_to_chance(calibration: contracts.CalibrationResult) -> str:
  if calibration.guarantee == contracts.IN_EXPECTATION:
    return ''
  return f', to which its guarantee leaves {percent(calibration.failure_prob)}'
