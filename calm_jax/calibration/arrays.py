"""What callers hand over, as arrays of numbers; or one sentence on why not."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from calm_jax import errors

# Text, bytes, dates, complex numbers, and objects such as None.
_NO_NUMBERS = 'OSUMmc'


def numbers(
  values: Any, what: str, error: type[errors.CalmError] = errors.DataError
) -> np.ndarray:
  """Returns values as float64.

  Args:
    values: a number, an array, or lists of numbers.
    what: begins the message.
    error: raised if they are none.

  Raises:
    CalmError: rows of different lengths, something that is no number, or an
      array of which a mask hides a part, which would be taken for numbers.
  """
  if isinstance(values, np.ma.MaskedArray):
    if np.ma.getmaskarray(values).any():
      raise error(
        f'{what} must be given without a mask, but'
        f' {int(np.ma.getmaskarray(values).sum())} are masked; leave these'
        ' examples out, or fill in what they are.'
      )
    values = values.filled()
  try:
    found = np.asarray(values)
    if found.dtype.kind in _NO_NUMBERS:
      raise TypeError(f'values of type {found.dtype}')
    return found.astype(np.float64)
  except (TypeError, ValueError) as problem:
    raise error(
      f'{what} must be numbers in rows of equal length, got'
      f' {type(values).__name__} ({str(problem)[:100]}).'
    ) from problem


def names(
  example_ids: Sequence[str] | np.ndarray | None, count: int
) -> list[str]:
  """Returns what messages call the examples, row numbers without ids.

  Raises:
    DataError: there is not one for each.
  """
  if example_ids is None:
    return [f'row {row}' for row in range(count)]
  found = [str(name) for name in example_ids]
  if len(found) != count:
    raise errors.DataError(
      f'There must be one example id for each of {count} examples, got'
      f' {len(found)}.'
    )
  return found
