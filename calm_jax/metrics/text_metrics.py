"""Metrics of one output text against one reference, each in [0, 1].

Used by `data` (validation), `calibration` (losses) and `evaluation` (quality).
Corpus-level scores do not serve calibration: its bounds hold for means of
per-example losses. All metrics here agree on the edges: a text equals itself
(1), an empty text against an empty one is 1, and against any other 0. Texts are
compared without the white space around them. No JAX, no TensorFlow.

A metric is a function of two strings. It may carry two attributes:
`many(predictions, reference)`, which scores a list of texts against one
reference at once, and `zero_one = True`, which promises scores of 0 and 1.
"""

import difflib
import functools
import importlib
import inspect
from collections.abc import Callable

from calm_jax import errors
from calm_jax.metrics import answers

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
def sentence_bleu(prediction: str, reference: str) -> float:
  """Sentence BLEU / 100 as sacrebleu computes it (Papineni et al. 2002).

  Word n-grams up to 4, or up to the text's length where it is shorter
  (effective order), tokenized by 13a and smoothed exponentially.
  """
  return _bleu_scorer().sentence_score(prediction, [reference]).score / 100.0


@_with_defined_edges
def exact_match(prediction: str, reference: str) -> float:
  """1 if the texts are equal but for white space around them, else 0."""
  return 0.0


exact_match.zero_one = True  # type: ignore[attr-defined]


@_with_defined_edges
def rouge_1(prediction: str, reference: str) -> float:
  """ROUGE-1 F1 of rouge-score, no stemmer: words in any order (Lin 2004)."""
  return _rouge('rouge1', prediction, reference)


@_with_defined_edges
def rouge_2(prediction: str, reference: str) -> float:
  """ROUGE-2 F1 of rouge-score, no stemmer: pairs of words (Lin 2004)."""
  return _rouge('rouge2', prediction, reference)


@_with_defined_edges
def rouge_l(prediction: str, reference: str) -> float:
  """ROUGE-L F1 of rouge-score, no stemmer (Lin 2004).

  Blind to case, punctuation and every letter outside a-z and 0-9.
  """
  return _rouge('rougeL', prediction, reference)


@_with_defined_edges
def token_f1(prediction: str, reference: str) -> float:
  """F1 of the bags of normalized words, as SQuAD's (Rajpurkar et al. 2016)."""
  return answers.word_f1(prediction, reference)


@_with_defined_edges
def squad_f1(prediction: str, reference: str) -> float:
  """`token_f1`, the best over the reference's lines: one answer each."""
  return answers.f1(prediction, reference)


@_with_defined_edges
def squad_exact_match(prediction: str, reference: str) -> float:
  """1 if the normalized words are those of a line of the reference, else 0."""
  return answers.exact_match(prediction, reference)


squad_exact_match.zero_one = True  # type: ignore[attr-defined]


METRICS: dict[str, Metric] = {
  metric.__name__: metric
  for metric in (
    chrf,
    exact_match,
    rouge_1,
    rouge_2,
    rouge_l,
    sentence_bleu,
    squad_exact_match,
    squad_f1,
    token_f1,
  )
}


def get_metric(name: str) -> Metric:
  """Returns the metric of that name in `METRICS`.

  The only way for names that were read from a file: it imports nothing.

  Raises:
    ConfigError: there is none; the message suggests the nearest name.
  """
  if name in METRICS:
    return METRICS[name]
  what = 'metric (a function of yours is named package.module:function)'
  raise errors.unknown_name(what, name, METRICS)


def names_a_function(text: str) -> bool:
  """Whether a text has the form `package.module:function`.

  Only such text is ever imported, so that who guards against it knows which.
  """
  module_name, _, function_name = text.partition(':')
  return function_name.isidentifier() and all(
    part.isidentifier() for part in module_name.split('.')
  )


def get_or_import_metric(name: str) -> Metric:
  """Returns a metric that the user named, perhaps a function of their own.

  Args:
    name: in `METRICS`, or `package.module:function` of a function of two
      strings, prediction and reference, that returns a number in [0, 1]. The
      module is imported, so the name must come from the user, not from a file
      that someone else may have made.

  Raises:
    ConfigError: there is no such metric, or the function cannot be imported or
      takes other arguments.
  """
  if not names_a_function(name := str(name)):
    return get_metric(name)
  module_name, _, function_name = name.partition(':')
  try:
    module = importlib.import_module(module_name)
  except Exception as error:  # A user's module may raise anything.
    raise errors.ConfigError(
      f'The metric {name!r} cannot be imported: {type(error).__name__}:'
      f' {error}. Mend or install its module, or put its folder on PYTHONPATH.'
    ) from error
  metric = getattr(module, function_name, None)
  if not callable(metric):
    near = difflib.get_close_matches(function_name, dir(module), n=1)
    hint = f' Did you mean {near[0]!r}?' if near else ''
    raise errors.ConfigError(
      f'The metric {name!r} must name a function, but {module_name} has none'
      f' called {function_name!r}.{hint}'
    )
  _check_two_arguments(metric, name)
  return metric


def _check_two_arguments(metric: Metric, name: str) -> None:
  try:
    inspect.signature(metric).bind('prediction', 'reference')
  except TypeError as error:
    raise errors.ConfigError(
      f'The metric {name!r} must take two texts, prediction and reference, but'
      f' it does not: {error}.'
    ) from error
  except ValueError:
    pass  # Built-in functions may tell nothing of their arguments.


def _rouge(kind: str, prediction: str, reference: str) -> float:
  return _rouge_scorer(kind).score(reference, prediction)[kind].fmeasure


# Imported at first use: the libraries take a second that few commands need.
@functools.cache
def _chrf_scorer():
  from sacrebleu.metrics import CHRF

  return CHRF()


@functools.cache
def _bleu_scorer():
  from sacrebleu.metrics import BLEU

  return BLEU(effective_order=True)


@functools.cache
def _rouge_scorer(kind: str):
  from rouge_score import rouge_scorer

  return rouge_scorer.RougeScorer([kind])
