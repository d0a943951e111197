"""Which numbers a loss may be, and so which p-values hold for it.

A bound proved for losses in [0, 1] says nothing about losses that may be
negative. So each risk declares the range of its losses, each p-value the range
that it holds for, and `calibrate` refuses a pair that does not fit before
anything is computed.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from calm_jax import errors


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

  def check(
    self,
    values: np.ndarray,
    what: str = 'Losses',
    example_ids: Sequence[str] | np.ndarray | None = None,
  ) -> None:
    """Checks every loss.

    Args:
      values: [N] or [N, ...]; examples come first.
      what: begins the message.
      example_ids: [N]; without it the row number is named.

    Raises:
      DataError: one is outside or not finite; the message names the first one
        and its example.
    """
    values = np.asarray(values)
    # Written so that NaN fails it; so does -inf, which no mean survives.
    allowed = (values >= self.lower) & (values <= self.upper)
    allowed &= np.isfinite(values)
    if self.whole:
      allowed &= np.floor(values) == values
    if allowed.all():
      return
    row, *columns = np.argwhere(~allowed)[0].tolist()
    example = f'row {row}' if example_ids is None else str(example_ids[row])
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
