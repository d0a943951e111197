"""Per-example losses in [0, 1] of early outputs, from texts and a metric.

First step of the calibration: dump -> losses -> p-values. The bounds that
follow hold for means of independent losses in [0, 1], so each loss belongs to
one example, and is clipped (if at all) before the mean. Every loss is 0 at
threshold 1, whose output is the full model's.
"""

import abc
import dataclasses
import difflib
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from calm_jax import errors, text_metrics


@dataclasses.dataclass(frozen=True)
class Consistency(abc.ABC):
  """What "the same quality" means, for a metric in [0, 1]."""

  metric: text_metrics.Metric

  name: ClassVar[str]

  @abc.abstractmethod
  def losses(
    self,
    predictions: np.ndarray,
    references: np.ndarray,
    example_ids: Sequence[str] | None = None,
  ) -> np.ndarray:
    """Computes the loss of every example at every threshold.

    Args:
      predictions: [N, G] text; column 0 is the full model's.
      references: [N] text.
      example_ids: [N], for messages.

    Returns:
      [N, G] float64 in [0, 1].

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

  How much worse each example became. Improvements count 0, per example: if
  they could outweigh losses, the mean would not be one of [0, 1] losses.
  """

  name = 'risk'

  def losses(self, predictions, references, example_ids=None):
    scores = score(self.metric, predictions, references, example_ids)
    return np.maximum(scores[:, :1] - scores, 0.0)


CONSISTENCIES: dict[str, type[Consistency]] = {
  kind.name: kind for kind in (TextualConsistency, RiskConsistency)
}


def get_consistency(name: str) -> type[Consistency]:
  """Returns the class of that name; ConfigError if there is none."""
  if name in CONSISTENCIES:
    return CONSISTENCIES[name]
  near = difflib.get_close_matches(str(name), CONSISTENCIES, n=1)
  hint = f' Did you mean {near[0]!r}?' if near else ''
  raise errors.ConfigError(
    f'The consistency must be one of {sorted(CONSISTENCIES)}, got'
    f' {name!r}.{hint}'
  )


def score(
  metric: text_metrics.Metric,
  predictions: np.ndarray,
  references: np.ndarray,
  example_ids: Sequence[str] | None = None,
) -> np.ndarray:
  """Applies the metric to [N, G] predictions and [N] references -> [N, G].

  Raises:
    DataError: the metric gave a number that is not in [0, 1].
  """
  scores = np.empty(predictions.shape, np.float64)
  for row, (texts, reference) in enumerate(
    zip(predictions.tolist(), references.tolist(), strict=True)
  ):
    # Neighbouring thresholds mostly give the same text.
    known = {text: metric(text, reference) for text in set(texts)}
    scores[row] = [known[text] for text in texts]
  what = f'Scores of {getattr(metric, "__name__", metric)}'
  check_unit_interval(scores, what, example_ids)
  return scores


def check_unit_interval(
  values: np.ndarray, what: str, example_ids: Sequence[str] | None = None
) -> None:
  """Raises a DataError naming the first example outside [0, 1] (or NaN).

  Args:
    values: [N, G].
    what: begins the message, as 'Losses'.
    example_ids: [N]; without it the row number is named.
  """
  # Written so that NaN fails it.
  wrong = ~((values >= 0.0) & (values <= 1.0))
  if not wrong.any():
    return
  row, column = np.argwhere(wrong)[0]
  example = f'row {row}' if example_ids is None else str(example_ids[row])
  raise errors.DataError(
    f'{what} must be finite and in [0, 1], but {int(wrong.sum())} are not; the'
    f' first is {values[row, column]} of example {example} at grid column'
    f' {column}.'
  )
