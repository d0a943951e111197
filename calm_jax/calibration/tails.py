"""Promises about the texts that lose most, as losses that `calibrate` takes.

A small mean loss may be a few texts that lose nearly all. Two losses say more
about them: whether a text loses more than a limit, whose expectation is a share
of texts; and how much it loses beyond a cutoff, which bounds the mean of the
worst texts.
"""

import numpy as np

from calm_jax import errors
from calm_jax.calibration import loss_ranges


def loses_more_than(losses: np.ndarray, limit: float) -> np.ndarray:
  """Returns whether each loss is above the limit, [...] bool.

  `calibrate` tests losses of bool exactly, and its tolerance is then the share
  of texts that may lose more than the limit.

  Args:
    losses: [...], at most 1.
    limit: at least 0 and below 1: the full model loses 0.

  Raises:
    ConfigError: no such limit.
    DataError: no losses.
  """
  if not 0.0 <= limit < 1.0:  # Written so that NaN fails it.
    raise errors.ConfigError(f'A limit must be in [0, 1), got {limit}.')
  return loss_ranges.AT_MOST_ONE.checked(losses) > limit


def mean_of_worst(
  losses: np.ndarray, tolerance: float, share: float, cutoff: float
) -> tuple[np.ndarray, float]:
  """Returns losses and a tolerance that bound the mean of the worst texts.

  The conditional value at risk of a share s, the mean loss of the worst s of
  all texts, is the least value over c of c + E[max(L - c, 0)] / s (Rockafellar
  and Uryasev 2000). So for any cutoff c that was fixed beforehand it is at most
  d if E[max(L - c, 0)] <= s (d - c). Divided by 1 - c these are losses in
  [0, 1] with a tolerance of s (d - c) / (1 - c), which `calibrate` certifies.

  Args:
    losses: [...] in [0, 1].
    tolerance: d, of the mean of the worst texts, in (cutoff, 1).
    share: s, of the texts, in (0, 1).
    cutoff: c, at least 0, chosen without these losses; best where a share s of
      the texts loses more.

  Raises:
    ConfigError: numbers out of range.
    DataError: no losses.
  """
  if not (0.0 <= cutoff < tolerance < 1.0 and 0.0 < share < 1.0):
    raise errors.ConfigError(
      'The mean of the worst texts needs 0 <= cutoff < tolerance < 1 and a'
      f' share in (0, 1), got cutoff {cutoff}, tolerance {tolerance} and share'
      f' {share}.'
    )
  losses = loss_ranges.UNIT.checked(losses)
  beyond = np.maximum(losses - cutoff, 0.0) / (1.0 - cutoff)
  return beyond, share * (tolerance - cutoff) / (1.0 - cutoff)
