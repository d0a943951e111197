"""What a calibration of a given size can certify at all, before it is run.

Even examples without any loss leave doubt: losses of 0 or 1 whose
expectation is the tolerance show none in n examples with a probability of
(1 - tolerance)^n. So there is a smallest tolerance for each n, and a smallest n
for each tolerance. `planning` says what to expect with some loss.
"""

import math
from collections.abc import Callable

import numpy as np

from calm_jax import errors
from calm_jax.calibration import choices, guarantee, p_values

# Tolerances tried in one call.
_AT_ONCE = 64

# Beyond it the search itself would take gigabytes.
_MAX_EXAMPLES = 10**6


def smallest_certifiable_tolerance(
  num_examples: int,
  failure_prob: float,
  p_value: p_values.PValue = choices.DEFAULT_P_VALUE,
) -> float:
  """Returns the smallest tolerance that n examples without loss certify.

  1.0, which every loss keeps anyway, means that none can be.

  Raises:
    ConfigError: the failure probability is not in (0, 1/2].
    DataError: there is no example.
  """
  check_count(num_examples)
  guarantee.check_guarantee(0.5, failure_prob)
  no_loss = np.zeros(num_examples)
  p_value = p_value.aimed_at(failure_prob)
  return smallest_rejected(
    lambda tolerances: p_value(no_loss, tolerances) <= failure_prob, 0.0, 1.0
  )


def smallest_rejected(
  rejected: Callable[[np.ndarray], np.ndarray], low: float, high: float
) -> float:
  """Returns where tolerances begin that are all rejected.

  Args:
    rejected: [k] tolerances in (low, high) -> [k] bool.
    low: not rejected.
    high: the result if none below it is.
  """
  while True:
    between = np.unique(np.linspace(low, high, _AT_ONCE + 2)[1:-1])
    between = between[(between > low) & (between < high)]
    if not len(between):
      return high
    points = np.concatenate([[low], between, [high]])
    # The last that is not rejected, should they alternate.
    last = np.flatnonzero(~rejected(between))
    place = last[-1] + 1 if len(last) else 0
    low, high = points[place], float(points[place + 1])


def smallest_certifying_num_examples(
  tolerance: float,
  failure_prob: float,
  p_value: p_values.PValue = choices.DEFAULT_P_VALUE,
) -> int:
  """Returns how many examples without any loss certify the tolerance.

  Raises:
    ConfigError: a setting is out of range, or needs more than a million
      examples.
  """
  guarantee.check_guarantee(tolerance, failure_prob)
  p_value = p_value.aimed_at(failure_prob)
  return smallest_number(
    lambda count: bool(p_value(np.zeros(count), tolerance) <= failure_prob),
    tolerance,
    _MAX_EXAMPLES,
    # Coins that fall so with a probability of the tolerance show no loss so
    # often that no valid test can do with fewer.
    at_least=math.ceil(math.log(failure_prob) / math.log1p(-tolerance) - 1e-9),
  )


def smallest_number(
  suffices: Callable[[int], bool],
  tolerance: float,
  limit: int,
  at_least: int = 1,
) -> int:
  """Returns the smallest count that suffices, if more examples never hurt.

  Args:
    suffices: whether so many examples do.
    tolerance: that they shall certify, for the message.
    limit: the search ends with a ConfigError beyond it.
    at_least: fewer are known not to suffice.
  """
  low, high = at_least - 1, at_least
  while high <= limit and not suffices(high):
    low, high = high, 2 * high
  if high > limit:
    raise errors.ConfigError(
      f'A tolerance of {tolerance:g} needs more than {limit} examples; choose'
      ' a larger one.'
    )
  while high - low > 1:
    middle = (low + high) // 2
    low, high = (low, middle) if suffices(middle) else (middle, high)
  return high


def warning(
  num_examples: int,
  tolerance: float,
  failure_prob: float,
  p_value: p_values.PValue = choices.DEFAULT_P_VALUE,
) -> str:
  """Returns '' or why no early exit can be certified with so few examples.

  Where losses may be negative, improvements might make up for it.
  """
  if tolerance <= 0.0:  # Only improvements can certify it.
    return ''
  p_value = p_value.aimed_at(failure_prob)
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
