"""What the records that cross stages check of themselves when they are made."""

import math
from typing import Any

from calm_jax import errors

CONSISTENCIES = ('textual', 'risk', 'risk_difference')


def require(condition: bool, message: str) -> None:
  """Raises a DataError with the message unless the condition holds."""
  if not condition:
    raise errors.DataError(f'{message}.')


def require_unit(record: object, *names: str) -> None:
  """Raises a DataError unless all these fields are in [0, 1]."""
  for name in names:
    value = getattr(record, name)
    require(
      math.isfinite(value) and 0.0 <= value <= 1.0,
      f'{name} must be in [0, 1], got {value}',
    )


def require_loss(record: object, *names: str) -> None:
  """Raises a DataError unless all these fields are in [-1, 1].

  A risk difference, which rewards improvements, can be negative.
  """
  for name in names:
    value = getattr(record, name)
    require(
      math.isfinite(value) and -1.0 <= value <= 1.0,
      f'{name} must be in [-1, 1], got {value}',
    )


def require_guarantee(result: Any) -> None:
  """Checks what a calibration and its evaluation both tell of the guarantee."""
  # 'textual>0.2' is the share of texts that lose more.
  kind = result.consistency.partition('>')[0]
  require(
    kind in CONSISTENCIES,
    f'consistency must be one of {CONSISTENCIES}, got {result.consistency!r}',
  )
  lowest = -1.0 if result.consistency == 'risk_difference' else 0.0
  require(
    lowest < result.tolerance < 1.0 and 0.0 < result.failure_prob < 1.0,
    f'tolerance must be in ({lowest:g}, 1) and failure_prob in (0, 1), got'
    f' {result.tolerance} and {result.failure_prob}',
  )
  require(result.num_examples >= 1, 'num_examples must be positive')
