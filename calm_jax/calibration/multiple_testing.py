"""Many thresholds, one failure probability: which nulls may be rejected.

Third step of the calibration: p-values -> decisions. Testing each threshold at
the failure probability would go wrong more often the more thresholds there are.
A procedure here keeps the probability of any wrong rejection, over the whole
grid, at or below it (family-wise error).
"""

import abc
import dataclasses

import numpy as np

from calm_jax import errors


class MultipleTesting(abc.ABC):
  """p-values in, decisions out."""

  @abc.abstractmethod
  def __call__(self, p_values: np.ndarray, failure_prob: float) -> np.ndarray:
    """Decides for each hypothesis.

    Args:
      p_values: [G], in an order fixed before the data were seen (here from the
        most careful threshold, the highest, to the lowest).
      failure_prob: bound on the probability of any wrong rejection.

    Returns:
      [G] bool: rejected, that is certified.

    Raises:
      DataError: a p-value is NaN or outside [0, 1].
    """


@dataclasses.dataclass(frozen=True)
class FixedSequence(MultipleTesting):
  """Tests in order at the full failure probability, stops at the first failure.

  A wrong rejection needs the first true null of the sequence to be rejected,
  which has at most that probability, so the number of thresholds costs nothing
  (Learn-then-Test; CALM's choice). Whatever comes after the
  first failure is not rejected, however small its p-value.
  """

  def __call__(self, p_values: np.ndarray, failure_prob: float) -> np.ndarray:
    passed = _checked(p_values) <= failure_prob
    return np.logical_and.accumulate(passed)


DEFAULT = FixedSequence()


def _checked(p_values: np.ndarray) -> np.ndarray:
  p_values = np.asarray(p_values, np.float64)
  # Written so that NaN fails it.
  if p_values.ndim != 1 or not np.all((p_values >= 0.0) & (p_values <= 1.0)):
    raise errors.DataError(
      'p-values must be one row of numbers in [0, 1], got shape'
      f' {p_values.shape}: {p_values.tolist()}.'
    )
  return p_values
