"""Metrics of one output text against one reference, each in [0, 1].

Used by `data` (validation), `calibration` (losses) and `evaluation` (quality).
Corpus-level scores do not serve calibration: its bounds hold for means of
per-example losses. All metrics agree on the edges: a text equals itself (1),
an empty text against an empty one is 1, and against any other 0. Texts are
compared without the white space around them. No JAX, no TensorFlow.
"""

import collections
import difflib
import functools
import re
import string
from collections.abc import Callable

from calm_jax import errors

# (prediction, reference) -> [0, 1]
Metric = Callable[[str, str], float]


def _with_defined_edges(metric: Metric) -> Metric:
  """Settles equal and empty texts before `metric` sees them.

  The libraries disagree there: ROUGE drops all but a-z and 0-9, so gives '??'
  against itself 0; chrF has no n-grams in an empty text.
  """

  @functools.wraps(metric)
  def score(prediction: str, reference: str) -> float:
    prediction, reference = prediction.strip(), reference.strip()
    if prediction == reference:
      return 1.0
    if not prediction or not reference:
      return 0.0
    return min(max(float(metric(prediction, reference)), 0.0), 1.0)

  return score


@_with_defined_edges
def chrf(prediction: str, reference: str) -> float:
  """Sentence chrF / 100 as sacrebleu computes it (Popovic 2015).

  F2 of character n-grams up to 6. Sensitive to case and punctuation, blind to
  white space, and not symmetric: recall of the reference weighs more.
  """
  return _chrf_scorer().sentence_score(prediction, [reference]).score / 100.0


@_with_defined_edges
def exact_match(prediction: str, reference: str) -> float:
  """1 if the texts are equal but for white space around them, else 0."""
  return 0.0


@_with_defined_edges
def rouge_l(prediction: str, reference: str) -> float:
  """ROUGE-L F1 of rouge-score, no stemmer (Lin 2004).

  Blind to case, punctuation and every letter outside a-z and 0-9.
  """
  return _rouge_scorer().score(reference, prediction)['rougeL'].fmeasure


@_with_defined_edges
def token_f1(prediction: str, reference: str) -> float:
  """F1 of the bags of normalized words, as SQuAD's (Rajpurkar et al. 2016)."""
  predicted, expected = _squad_words(prediction), _squad_words(reference)
  if not predicted or not expected:
    return float(predicted == expected)
  common = collections.Counter(predicted) & collections.Counter(expected)
  return 2.0 * common.total() / (len(predicted) + len(expected))


METRICS: dict[str, Metric] = {
  metric.__name__: metric for metric in (chrf, exact_match, rouge_l, token_f1)
}


def get_metric(name: str) -> Metric:
  """Returns the metric of that name.

  Raises:
    ConfigError: there is none; the message suggests the nearest name.
  """
  if name in METRICS:
    return METRICS[name]
  near = difflib.get_close_matches(str(name), METRICS, n=1)
  hint = f' Did you mean {near[0]!r}?' if near else ''
  raise errors.ConfigError(
    f'The metric must be one of {sorted(METRICS)}, got {name!r}.{hint}'
  )


def _squad_words(text: str) -> list[str]:
  """Lower case, without ASCII punctuation and English articles."""
  text = text.lower().translate(str.maketrans('', '', string.punctuation))
  return re.sub(r'\b(a|an|the)\b', ' ', text).split()


# Imported at first use: the libraries take a second that few commands need.
@functools.cache
def _chrf_scorer():
  from sacrebleu.metrics import CHRF

  return CHRF()


@functools.cache
def _rouge_scorer():
  from rouge_score import rouge_scorer

  return rouge_scorer.RougeScorer(['rougeL'], use_stemmer=False)
