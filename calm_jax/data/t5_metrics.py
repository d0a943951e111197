"""T5's scores of a whole split, in percent: what papers print.

Functions of (targets, predictions), as seqio's evaluators call them. For a
calibration, which needs a score per example, see `metrics.text_metrics`. No
TensorFlow.
"""

from collections.abc import Sequence

import numpy as np

from calm_jax import errors
from calm_jax.metrics import answers


def rouge(
  targets: Sequence[str], predictions: Sequence[str]
) -> dict[str, float]:
  """ROUGE-1, ROUGE-2 and ROUGE-Lsum F1 of rouge-score, no stemmer.

  Each sentence that ends in ' . ' is a line of its own, as T5 has it. The mean
  over examples; T5 prints the median of that mean over 1,000 bootstrap samples,
  which differs in the second decimal.
  """
  from rouge_score import rouge_scorer

  _check(targets, predictions)
  names = ['rouge1', 'rouge2', 'rougeLsum']
  scorer = rouge_scorer.RougeScorer(names)
  scores = [
    scorer.score(_lines(target), _lines(prediction))
    for target, prediction in zip(targets, predictions, strict=True)
  ]
  return {
    name: 100.0 * float(np.mean([score[name].fmeasure for score in scores]))
    for name in names
  }


def bleu(
  targets: Sequence[str], predictions: Sequence[str]
) -> dict[str, float]:
  """sacrebleu's corpus BLEU with T5's options: 'intl' tokens, 'exp' smoothing.

  CALM gives BLEU without options. sacrebleu's default tokens ('13a') score a
  little differently.
  """
  import sacrebleu

  _check(targets, predictions)
  score = sacrebleu.corpus_bleu(
    list(predictions),
    [list(targets)],
    smooth_method='exp',
    tokenize='intl',
    use_effective_order=False,
  )
  return {'bleu': score.score}


def squad(
  targets: Sequence[Sequence[str]], predictions: Sequence[str]
) -> dict[str, float]:
  """Exact match and F1 of normalized words, each over the best answer.

  Args:
    targets: all answers of each question, or one text with one answer a line.
    predictions: one text for each.
  """
  _check(targets, predictions)
  pairs = [
    (prediction, x if isinstance(x, str) else answers.join(x))
    for x, prediction in zip(targets, predictions, strict=True)
  ]
  return {
    'em': 100.0 * float(np.mean([answers.exact_match(*x) for x in pairs])),
    'f1': 100.0 * float(np.mean([answers.f1(*x) for x in pairs])),
  }


def _lines(text: str) -> str:
  return text.replace(' . ', ' .\n')


def _check(targets: Sequence, predictions: Sequence) -> None:
  if not len(targets) or len(targets) != len(predictions):
    raise errors.DataError(
      'Scores need a target for each prediction, and at least one; got'
      f' {len(targets)} and {len(predictions)}.'
    )
