"""Many thresholds, one failure probability: which nulls may be rejected.

Third step of the calibration: p-values -> decisions. Testing each threshold at
the failure probability would go wrong more often the more thresholds there are.
A procedure here keeps the probability of any wrong rejection, over the whole
grid, at or below it (family-wise error), whatever the dependence between the
p-values. All decide for many grids at once: G is the last axis.
"""

import abc
import dataclasses

import numpy as np

from calm_jax import errors
from calm_jax.calibration import arrays, guarantee


class MultipleTesting(abc.ABC):
  """p-values in, decisions out."""

  def __call__(self, p_values: np.ndarray, failure_prob: float) -> np.ndarray:
    """Decides for each hypothesis.

    Args:
      p_values: [..., G], in an order fixed before the data were seen (here from
        the most careful threshold, the highest, to the lowest).
      failure_prob: bound on the probability of any wrong rejection per grid.

    Returns:
      [..., G] bool: rejected, that is certified.

    Raises:
      ConfigError: the failure probability is not in (0, 1).
      DataError: a p-value is NaN or outside [0, 1].
    """
    guarantee.check_failure_prob(failure_prob)
    p_values = arrays.numbers(p_values, 'p-values')
    # Written so that NaN fails it.
    if p_values.ndim == 0 or not np.all((p_values >= 0.0) & (p_values <= 1.0)):
      raise errors.DataError(
        'p-values must be rows of numbers in [0, 1], got shape'
        f' {p_values.shape}: {p_values.ravel()[:10].tolist()}.'
      )
    if not p_values.size:
      return np.zeros(p_values.shape, bool)
    return self._rejected(p_values, failure_prob)

  @abc.abstractmethod
  def _rejected(self, p_values: np.ndarray, failure_prob: float) -> np.ndarray:
    """As `__call__`, for checked p-values with G >= 1."""

  @abc.abstractmethod
  def first_level(self, failure_prob: float, num_hypotheses: int) -> float:
    """Returns the p-value that a first rejection needs."""


@dataclasses.dataclass(frozen=True)
class FixedSequence(MultipleTesting):
  """Tests in order at the full failure probability, stops at the first failure.

  A wrong rejection needs the first true null of the sequence to be rejected,
  which has at most that probability, so the number of thresholds costs nothing
  (Learn-then-Test; CALM's choice). Whatever comes after the
  first failure is not rejected, however small its p-value.
  """

  def _rejected(self, p_values, failure_prob):
    return _until_first_failure(p_values, failure_prob)

  def first_level(self, failure_prob, num_hypotheses):
    return failure_prob


@dataclasses.dataclass(frozen=True)
class MultiStartFixedSequence(MultipleTesting):
  """Fixed sequence testing from several starting points of the grid.

  For losses that do not only grow along the grid: a bump in the middle stops
  the sequence above it, not those below. Each start has an equal share of the
  failure probability (union bound; Learn-then-Test). The starts are
  spread evenly from the first threshold on; a grid shorter than `num_starts`
  has as many starts as thresholds, and the share is of the starts that there
  are, not of those asked for.

  Attributes:
    num_starts: at least 1; with 1 it is `FixedSequence`.
  """

  num_starts: int = 4

  def __post_init__(self):
    if not isinstance(self.num_starts, int) or self.num_starts < 1:
      raise errors.ConfigError(
        f'num_starts must be a whole number of at least 1, got'
        f' {self.num_starts!r}.'
      )

  def starts(self, num_hypotheses: int) -> np.ndarray:
    """Returns where the sequences begin, each position once."""
    count = min(self.num_starts, num_hypotheses)
    return np.arange(count) * num_hypotheses // count

  def _rejected(self, p_values, failure_prob):
    starts = self.starts(p_values.shape[-1])
    rejected = np.zeros(p_values.shape, bool)
    for start in starts:
      rejected[..., start:] |= _until_first_failure(
        p_values[..., start:], failure_prob / len(starts)
      )
    return rejected

  def first_level(self, failure_prob, num_hypotheses):
    return failure_prob / len(self.starts(num_hypotheses))


@dataclasses.dataclass(frozen=True)
class Bonferroni(MultipleTesting):
  """Each hypothesis at failure_prob / G: needs no order, and pays for it."""

  def _rejected(self, p_values, failure_prob):
    return p_values <= failure_prob / p_values.shape[-1]

  def first_level(self, failure_prob, num_hypotheses):
    return failure_prob / num_hypotheses


@dataclasses.dataclass(frozen=True)
class Holm(MultipleTesting):
  """Bonferroni, stepping down: rejects all that Bonferroni does, and more.

  The smallest p-value is tested at failure_prob / G, the next one at
  failure_prob / (G - 1), and so on until one fails (Holm 1979).
  """

  def _rejected(self, p_values, failure_prob):
    order = np.argsort(p_values, axis=-1, kind='stable')
    ranked = np.take_along_axis(p_values, order, axis=-1)
    levels = failure_prob / np.arange(p_values.shape[-1], 0, -1)
    passed = _until_first_failure(ranked, levels)
    rejected = np.empty_like(passed)
    np.put_along_axis(rejected, order, passed, axis=-1)
    return rejected

  def first_level(self, failure_prob, num_hypotheses):
    return failure_prob / num_hypotheses


DEFAULT = FixedSequence()


def _until_first_failure(
  p_values: np.ndarray, level: float | np.ndarray
) -> np.ndarray:
  return np.logical_and.accumulate(p_values <= level, axis=-1)
