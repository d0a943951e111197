"""The thresholds that are tested, and the losses that belong to them.

The order of the tests must not depend on the losses, so a grid is always tested
from 1, the full model, downwards, in whatever order it was given.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from calm_jax import errors
from calm_jax.calibration import arrays, loss_ranges


@dataclasses.dataclass(frozen=True, eq=False)
class Grid:
  """Thresholds in the order of the tests.

  Attributes:
    thresholds: [G], strictly descending within [0, 1].
    columns: [G], where each stood among the thresholds that were given.
    warning: '' or what had to be put in order.
  """

  thresholds: np.ndarray
  columns: np.ndarray
  warning: str


def sort_thresholds(thresholds: Sequence[float]) -> Grid:
  """Sorts thresholds downwards, each once, and says so if that was needed.

  Raises:
    ConfigError: there are none, or one is not in [0, 1].
  """
  given = arrays.numbers(thresholds, 'Thresholds', errors.ConfigError)
  if given.ndim != 1 or not len(given):
    raise errors.ConfigError(
      'Calibration needs a row of thresholds, such as 1.0, 0.9, 0.5, got'
      f' {str(thresholds)[:80]}.'
    )
  # Written so that NaN fails it.
  if not np.all((given >= 0.0) & (given <= 1.0)):
    raise errors.ConfigError(
      f'Thresholds must be in [0, 1], got {given.tolist()}.'
    )
  rising, first = np.unique(given, return_index=True)
  descending = rising[::-1]
  warning = ''
  if not np.array_equal(descending, given):
    warning = (
      'The thresholds were not strictly descending; they are taken in this'
      f' order: {[float(f"{value:g}") for value in descending]}.'
    )
  return Grid(descending, first[::-1], warning)


def sort_losses(
  losses: np.ndarray,
  thresholds: Sequence[float],
  grid: Grid,
  loss_range: loss_ranges.LossRange,
  example_ids: Sequence[str] | np.ndarray | None,
) -> np.ndarray:
  """Checks losses and puts their columns in the grid's order.

  Args:
    losses: [N, G'], of independent examples.
    thresholds: [G'], as they were given.
    grid: of these thresholds.
    loss_range: that each loss must be in.
    example_ids: [N], for messages.

  Returns:
    [N, G] float64.

  Raises:
    DataError: no examples, another shape, a loss outside the range or not 0 at
      threshold 1, or one threshold given twice with different losses.
  """
  losses = arrays.numbers(losses, 'Losses')
  if losses.ndim != 2 or losses.shape[1] != len(thresholds) or not len(losses):
    raise errors.DataError(
      f'Losses must have shape [at least one example, {len(thresholds)}'
      f' thresholds], got {list(losses.shape)}.'
    )
  names = arrays.names(example_ids, len(losses))
  losses = loss_range.checked(losses, 'Losses', names)
  ordered = losses[:, grid.columns]
  same = np.searchsorted(-grid.thresholds, -np.asarray(thresholds, np.float64))
  _refuse(
    losses != ordered[:, same],
    'A threshold that is given twice must have the same losses both times',
    losses,
    names,
  )
  full = grid.thresholds == 1.0
  _refuse(
    (np.abs(ordered) > loss_ranges.ROUNDING) & full,
    "At threshold 1 the output is the full model's, so every loss there must be"
    ' 0',
    ordered,
    names,
  )
  return np.where(full, 0.0, ordered)


def _refuse(
  wrong: np.ndarray,
  requirement: str,
  losses: np.ndarray,
  names: list[str],
) -> None:
  if not wrong.any():
    return
  row, column = np.argwhere(wrong)[0]
  raise errors.DataError(
    f'{requirement}, but that of example {names[row]} is {losses[row, column]}.'
  )
