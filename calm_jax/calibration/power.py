"""What a calibration of a given size can certify at all, before it is run.

Even examples without any loss leave doubt: with n of them, Hoeffding-Bentkus
gives p = (1 - tolerance)^n. So there is a smallest tolerance for each n, and a
smallest n for each tolerance. `planning` says what to expect with some loss.
"""

import math
from collections.abc import Callable

import numpy as np

from calm_jax import errors
from calm_jax.calibration import guarantee, p_values

# Beyond it the search itself would take gigabytes.
_MAX_EXAMPLES = 10**6


def smallest_certifiable_tolerance(
  num_examples: int,
  failure_prob: float,
  p_value: p_values.PValue = p_values.DEFAULT,
) -> float:
  """Returns the smallest tolerance that n examples without loss certify.

  1.0, which every loss keeps anyway, means that none can be.

  Raises:
    ConfigError: the failure probability is not in (0, 1).
    DataError: there is no example.
  """
  check_count(num_examples)
  guarantee.check_guarantee(0.5, failure_prob)
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
  """Returns how many examples without any loss certify the tolerance.

  Raises:
    ConfigError: a setting is out of range, or needs more than a million
      examples.
  """
  guarantee.check_guarantee(tolerance, failure_prob)
  return smallest_number(
    lambda count: bool(p_value(np.zeros(count), tolerance) <= failure_prob),
    tolerance,
    _MAX_EXAMPLES,
  )


def smallest_number(
  suffices: Callable[[int], bool], tolerance: float, limit: int
) -> int:
  """Returns the smallest count that suffices, if more examples never hurt.

  Args:
    suffices: whether so many examples do.
    tolerance: that they shall certify, for the message.
    limit: the search ends with a ConfigError beyond it.
  """
  high = 1
  while not suffices(high):
    high *= 2
    if high > limit:
      raise errors.ConfigError(
        f'A tolerance of {tolerance:g} needs more than {limit} examples; choose'
        ' a larger one.'
      )
  low = high // 2  # does not suffice
  while high - low > 1:
    middle = (low + high) // 2
    low, high = (low, middle) if suffices(middle) else (middle, high)
  return high


def warning(
  num_examples: int,
  tolerance: float,
  failure_prob: float,
  p_value: p_values.PValue = p_values.DEFAULT,
) -> str:
  """Returns '' or why no early exit can be certified with so few examples.

  Where losses may be negative, improvements might make up for it.
  """
  if p_value(np.zeros(num_examples), tolerance) <= failure_prob:
    return ''
  smallest = smallest_certifiable_tolerance(num_examples, failure_prob, p_value)
  try:
    needed = smallest_certifying_num_examples(tolerance, failure_prob, p_value)
  except errors.ConfigError:
    needed = _MAX_EXAMPLES  # A lower bound: such a tolerance is no plan.
  return (
    f'Even without any loss, {num_examples} examples do not certify a tolerance'
    f' of {tolerance:g} at failure probability {failure_prob:.4g}: use at'
    f' least {needed} examples or a tolerance of at least'
    f' {math.ceil(smallest * 1000) / 1000:g}.'
  )


def check_count(num_examples: int) -> None:
  """Raises a DataError if there is no example."""
  if num_examples < 1:
    raise errors.DataError(
      f'Calibration needs at least one example, got {num_examples}.'
    )
