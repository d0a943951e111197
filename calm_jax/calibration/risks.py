"""Per-example losses of early outputs, from texts and a metric in [0, 1].

First step of the calibration: dump -> losses -> p-values. The bounds that
follow hold for means of independent losses, so each loss belongs to one
example, and is clipped (if at all) before the mean. Every loss is 0 at
threshold 1, whose output is the full model's.
"""

import abc
import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import ClassVar

import numpy as np

from calm_jax import errors
from calm_jax.calibration import arrays, loss_ranges, tails
from calm_jax.metrics import text_metrics


@dataclasses.dataclass(frozen=True)
class Consistency(abc.ABC):
  """What "the same quality" means, for a metric in [0, 1]."""

  metric: text_metrics.Metric

  name: ClassVar[str]

  @property
  def loss_range(self) -> loss_ranges.LossRange:
    """The numbers that a loss may be; decides which p-values hold."""
    if getattr(self.metric, 'zero_one', False):
      return loss_ranges.ZERO_OR_ONE
    return loss_ranges.UNIT

  @abc.abstractmethod
  def losses(
    self,
    predictions: np.ndarray,
    references: np.ndarray,
    example_ids: Sequence[str] | np.ndarray | None = None,
  ) -> np.ndarray:
    """Computes the loss of every example at every threshold.

    Args:
      predictions: [N, G] text; column 0 is the full model's.
      references: [N] text.
      example_ids: [N], for messages.

    Returns:
      [N, G] float64 in `loss_range`.

    Raises:
      DataError: the metric gave a number that is not in [0, 1].
    """


@dataclasses.dataclass(frozen=True)
class TextualConsistency(Consistency):
  """1 - metric(early output, full output); no reference needed."""

  name = 'textual'

  def losses(self, predictions, references, example_ids=None):
    del references
    return 1.0 - score(self.metric, predictions, predictions[:, 0], example_ids)


@dataclasses.dataclass(frozen=True)
class RiskConsistency(Consistency):
  """max(0, metric(full, reference) - metric(early, reference)) (CALM Eq. 11).

  How much worse each example became. Improvements count 0, per example, which
  keeps the losses in [0, 1].
  """

  name = 'risk'

  def losses(self, predictions, references, example_ids=None):
    return np.maximum(
      _lost(self.metric, predictions, references, example_ids), 0.0
    )


@dataclasses.dataclass(frozen=True)
class RiskDifference(Consistency):
  """metric(full, reference) - metric(early, reference), not clipped.

  An example that improves makes up for one that became worse, so the guarantee
  is about the mean metric itself: E[early] >= E[full] - tolerance. The losses
  are in [-1, 1], for which most bounds do not hold: take `betting.Betting`,
  which needs no more than losses of at most 1, or a bound for [0, 1] made to
  fit by `rescaling.Rescaled`.
  """

  name = 'risk_difference'

  @property
  def loss_range(self):
    return loss_ranges.SIGNED_UNIT

  def losses(self, predictions, references, example_ids=None):
    return _lost(self.metric, predictions, references, example_ids)


CONSISTENCIES: dict[str, type[Consistency]] = {
  kind.name: kind
  for kind in (TextualConsistency, RiskConsistency, RiskDifference)
}


@dataclasses.dataclass(frozen=True)
class ShareLosing(Consistency):
  """1 for a text that loses more than a limit, else 0: a share of texts.

  Attributes:
    kind: of the loss, in [0, 1].
    limit: in [0, 1).
  """

  kind: type[Consistency]
  limit: float

  loss_range = loss_ranges.ZERO_OR_ONE

  @property
  def name(self):  # type: ignore[override]
    return f'{self.kind.name}>{self.limit:g}'

  def losses(self, predictions, references, example_ids=None):
    losses = self.kind(self.metric).losses(predictions, references, example_ids)
    return tails.loses_more_than(losses, self.limit).astype(np.float64)


def get_consistency(
  name: str,
) -> Callable[[text_metrics.Metric], Consistency]:
  """Returns what makes the loss of that name from a metric.

  Args:
    name: in `CONSISTENCIES`; or such a name and a limit, as 'textual>0.2', for
      the share of texts that lose more.

  Raises:
    ConfigError: there is none of that name, or the limit is not in [0, 1).
  """
  kind, separator, limit = name.partition('>')
  if kind not in CONSISTENCIES:
    raise errors.unknown_name('consistency', kind, CONSISTENCIES)
  if not separator:
    return CONSISTENCIES[kind]
  try:
    value = float(limit)
    tails.loses_more_than(np.zeros(1), value)
  except (ValueError, errors.ConfigError) as error:
    raise errors.ConfigError(
      f'The limit of {name!r} must be a number in [0, 1), as in textual>0.2.'
    ) from error
  return functools.partial(ShareLosing, kind=CONSISTENCIES[kind], limit=value)


def score(
  metric: text_metrics.Metric,
  predictions: np.ndarray,
  references: np.ndarray,
  example_ids: Sequence[str] | np.ndarray | None = None,
) -> np.ndarray:
  """Applies the metric to [N, G] predictions and [N] references -> [N, G].

  Raises:
    DataError: the metric failed, or gave what is no number in [0, 1].
    CalmError: the metric's own, as of a setting that it lacks.
  """
  scores = np.empty(predictions.shape, np.float64)
  names = arrays.names(example_ids, len(predictions))
  name = getattr(metric, '__name__', str(metric))
  for row, (texts, reference) in enumerate(
    zip(predictions.tolist(), references.tolist(), strict=True)
  ):
    # Neighbouring thresholds mostly give the same text.
    distinct = list(dict.fromkeys(texts))
    try:
      known = dict(
        zip(distinct, _scores(metric, distinct, reference), strict=True)
      )
      scores[row] = [known[text] for text in texts]
    except errors.CalmError:  # It says itself what is wrong, and whose fault.
      raise
    except Exception as error:  # A user's metric may raise anything.
      raise errors.DataError(
        f'The metric {name} failed on example {names[row]}:'
        f' {type(error).__name__}: {error}'
      ) from error
  return loss_ranges.UNIT.checked(scores, f'Scores of {name}', names)


def _scores(
  metric: text_metrics.Metric, texts: list[str], reference: str
) -> Sequence[float]:
  if hasattr(metric, 'many'):
    return metric.many(texts, reference)
  return [metric(text, reference) for text in texts]


def _lost(
  metric: text_metrics.Metric,
  predictions: np.ndarray,
  references: np.ndarray,
  example_ids: Sequence[str] | np.ndarray | None,
) -> np.ndarray:
  """[N, G]: the full output's score minus the early one's."""
  scores = score(metric, predictions, references, example_ids)
  return scores[:, :1] - scores
