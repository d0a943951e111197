"""Which numbers a loss may be, and so which p-values hold for it.

A bound proved for losses in [0, 1] says nothing about losses that may be
negative. So each risk declares the range of its losses, each p-value the range
that it holds for, and `calibrate` refuses a pair that does not fit before
anything is computed.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from calm_jax import errors
from calm_jax.calibration import arrays

# What sums and products of a few numbers may be off by.
ROUNDING = 1e-9


@dataclasses.dataclass(frozen=True)
class LossRange:
  """The values that a loss may take.

  Attributes:
    description: as it stands in messages.
    lower, upper: bounds, both included; -inf if there is no lower one.
    whole: whether only whole numbers are allowed.
  """

  description: str
  lower: float
  upper: float
  whole: bool = False

  def includes(self, other: 'LossRange') -> bool:
    """Whether every loss of the other range is one of this range."""
    return (
      self.lower <= other.lower
      and other.upper <= self.upper
      and (other.whole or not self.whole)
    )

  def checked(
    self,
    values: Any,
    what: str = 'Losses',
    example_ids: Sequence[str] | np.ndarray | None = None,
  ) -> np.ndarray:
    """Returns every loss as float64.

    A loss beyond a border by rounding alone, as 1 minus a cosine is, becomes
    the border.

    Args:
      values: [N] or [N, ...]; examples come first.
      what: begins the message.
      example_ids: [N]; without it the row number is named.

    Raises:
      DataError: one is outside or not finite, and the message names the first
        one and its example; or they are no numbers, or masked.
    """
    values = arrays.numbers(values, what)
    inside = np.clip(values, self.lower, self.upper)
    if self.whole:
      inside = np.round(inside)
    # Written so that NaN fails it; so does -inf, which no mean survives.
    with np.errstate(invalid='ignore'):
      allowed = np.abs(inside - values) <= ROUNDING
    if allowed.all():
      return inside
    if not values.ndim:
      raise errors.DataError(
        f'{what} must be finite and {self.description}, got {values}.'
      )
    row, *columns = np.argwhere(~allowed)[0].tolist()
    example = arrays.names(example_ids, len(values))[row]
    place = f' at grid column {columns[-1]}' if columns else ''
    raise errors.DataError(
      f'{what} must be finite and {self.description}, but'
      f' {int((~allowed).sum())} are not; the first is'
      f' {values[(row, *columns)]} of example {example}{place}.'
    )


ZERO_OR_ONE = LossRange('0 or 1', 0.0, 1.0, whole=True)
UNIT = LossRange('in [0, 1]', 0.0, 1.0)
SIGNED_UNIT = LossRange('in [-1, 1]', -1.0, 1.0)
AT_MOST_ONE = LossRange('at most 1', -np.inf, 1.0)
