"""What a calibration of a given size can certify at all, before it is run.

Even examples without any loss leave doubt: with n of them, Hoeffding-Bentkus
gives p = (1 - tolerance)^n. So there is a smallest tolerance for each n, and a
smallest n for each tolerance.
"""

import math

import numpy as np

from calm_jax import errors
from calm_jax.calibration import p_values

# Beyond it the search itself would need gigabytes.
_MAX_EXAMPLES = 10**7


def check_guarantee(tolerance: float, failure_prob: float) -> None:
  """Raises a ConfigError unless both are numbers in (0, 1)."""
  for name, letters, value in (
    ('tolerance', 'delta in CALM, alpha in Learn-then-Test', tolerance),
    (
      'failure_prob',
      'epsilon in CALM, delta in Learn-then-Test',
      failure_prob,
    ),
  ):
    is_number = isinstance(value, int | float | np.number)
    if not is_number or isinstance(value, bool) or not 0.0 < value < 1.0:
      raise errors.ConfigError(
        f'{name} ({letters}) must be a number in (0, 1), got {value!r}; usual'
        ' are tolerance 0.1 and failure_prob 0.05.'
      )


def smallest_certifiable_tolerance(
  num_examples: int,
  failure_prob: float,
  p_value: p_values.PValue = p_values.DEFAULT,
) -> float:
  """Returns the smallest tolerance that n examples without loss certify.

  1.0, which every loss keeps anyway, means that none can be.
  """
  _check_count(num_examples)
  check_guarantee(0.5, failure_prob)
  no_loss = np.zeros(num_examples)
  low, high = 0.0, 1.0
  while (middle := (low + high) / 2) not in (low, high):
    if p_value(no_loss, middle) <= failure_prob:
      high = middle
    else:
      low = middle
  return high


def smallest_certifying_num_examples(
  tolerance: float,
  failure_prob: float,
  p_value: p_values.PValue = p_values.DEFAULT,
) -> int:
  """Returns how many examples without any loss certify the tolerance."""
  check_guarantee(tolerance, failure_prob)

  def certifies(count: int) -> bool:
    return bool(p_value(np.zeros(count), tolerance) <= failure_prob)

  high = 1
  while not certifies(high):
    high *= 2
    if high > _MAX_EXAMPLES:
      raise errors.ConfigError(
        f'A tolerance of {tolerance} needs more than {_MAX_EXAMPLES:.0e}'
        ' examples; choose a larger one.'
      )
  low = high // 2  # does not certify
  while high - low > 1:
    middle = (low + high) // 2
    low, high = (low, middle) if certifies(middle) else (middle, high)
  return high


def warning(
  num_examples: int,
  tolerance: float,
  failure_prob: float,
  p_value: p_values.PValue = p_values.DEFAULT,
) -> str:
  """Returns '' or why no early exit can be certified with so few examples."""
  smallest = smallest_certifiable_tolerance(num_examples, failure_prob, p_value)
  if tolerance >= smallest:
    return ''
  try:
    needed = smallest_certifying_num_examples(tolerance, failure_prob, p_value)
  except errors.ConfigError:
    needed = _MAX_EXAMPLES  # A lower bound: such a tolerance is no plan.
  return (
    f'{num_examples} examples can never certify a tolerance of {tolerance:g} at'
    f' failure probability {failure_prob:g}, even without any loss: use at'
    f' least {needed} examples or a tolerance of at least'
    f' {math.ceil(smallest * 1000) / 1000:g}.'
  )


def _check_count(num_examples: int) -> None:
  if num_examples < 1:
    raise errors.DataError(
      f'Calibration needs at least one example, got {num_examples}.'
    )
