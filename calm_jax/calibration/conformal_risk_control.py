"""Conformal risk control: a weaker guarantee than the rest of this room.

It bounds the expected loss *on average over calibrations*, not with high
probability for the one calibration that was made. How many of those who
calibrate may be above the tolerance is not bounded, as long as all together are
not; where the grid is fine, about half are. It needs no failure probability, no
p-values and fewer examples. Named so everywhere that nobody takes it for the
guarantee of CALM (Angelopoulos et al. 2022, Conformal Risk Control, Theorem 1).

Its losses must not fall as the threshold falls. Ours may, by chance, so each
example's losses are made monotone first: the loss at a threshold becomes the
greatest at that threshold or any higher one, with the full model's loss of 0
among them. What holds for these, holds for the smaller ones.
"""

import dataclasses
from typing import ClassVar

import numpy as np

from calm_jax import errors
from calm_jax.calibration import arrays, loss_ranges

GUARANTEE = (
  'Weaker guarantee (conformal risk control): the expected loss is at most the'
  ' tolerance on average over the draw of the calibration set, not with high'
  ' probability for this one.'
)


@dataclasses.dataclass(frozen=True)
class ConformalRiskControl:
  """Chooses where (sum of monotone losses + 1) / (n + 1) <= tolerance.

  The 1 is the greatest loss that the next example may have. Losses of at most
  1 are all it needs; they may be negative.
  """

  accepts: ClassVar[loss_ranges.LossRange] = loss_ranges.AT_MOST_ONE

  def __call__(self, losses: np.ndarray, tolerance: float) -> np.ndarray:
    """Decides for each threshold of a grid.

    Args:
      losses: [n, ..., G], at most 1, thresholds descending along the last axis.
      tolerance: bound on the expected loss.

    Returns:
      [..., G] bool: chosen; once False, False for all lower thresholds.

    Raises:
      ConfigError: the tolerance is not in (0, 1).
      DataError: no losses, or one is above 1.
    """
    losses = self.accepts.checked(losses)
    if losses.ndim < 2 or not len(losses):
      raise errors.DataError(
        'Conformal risk control needs losses of at least one example, got shape'
        f' {losses.shape}.'
      )
    return self.from_totals(
      monotone_losses(losses).sum(axis=0), len(losses), tolerance
    )

  def from_totals(
    self,
    totals: np.ndarray,
    num_examples: int,
    tolerance: float | np.ndarray,
  ) -> np.ndarray:
    """Decides from the sums [..., G] of `monotone_losses` of n examples.

    Raises:
      ConfigError: the tolerance is not in (0, 1), where nothing or everything
        would be chosen.
    """
    wanted = arrays.numbers(tolerance, 'A tolerance', errors.ConfigError)
    if not np.all((wanted > 0.0) & (wanted < 1.0)):
      raise errors.ConfigError(
        'A tolerance for conformal risk control must be in (0, 1), got'
        f' {np.ravel(wanted)[:5].tolist()}.'
      )
    return (np.asarray(totals) + 1.0) / (num_examples + 1.0) <= wanted

  def warning(self, num_examples: int, tolerance: float) -> str:
    """Returns '' or why no early exit can be chosen with so few examples."""
    if 1.0 / (num_examples + 1.0) <= tolerance:
      return ''
    needed = int(np.ceil(1.0 / tolerance)) - 1
    if 1.0 / needed <= tolerance:  # 1 / tolerance was rounded up.
      needed -= 1
    return (
      f'{num_examples} examples can never keep a tolerance of {tolerance:g},'
      f' even without any loss: use at least {needed} examples or a tolerance'
      f' of at least {1.0 / (num_examples + 1.0):.4g}.'
    )


def monotone_losses(losses: np.ndarray) -> np.ndarray:
  """[..., G] along descending thresholds -> the greatest so far, at least 0.

  At least 0, because that is the full model's loss, which precedes them all: an
  improvement over it counts as no loss here.
  """
  return np.maximum(np.maximum.accumulate(losses, axis=-1), 0.0)
