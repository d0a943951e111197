"""What a user asks for: a tolerance, and the probability of missing it."""

import numbers

from calm_jax import errors
from calm_jax.calibration import loss_ranges

_TOLERANCE = 'tolerance (delta in CALM, alpha in Learn-then-Test)'
_FAILURE_PROB = 'failure_prob (epsilon in CALM, delta in Learn-then-Test)'
_USUAL = 'usual are tolerance 0.1 and failure_prob 0.05'


def check_guarantee(
  tolerance: float,
  failure_prob: float,
  loss_range: loss_ranges.LossRange = loss_ranges.UNIT,
) -> None:
  """Checks both settings, before anything is computed for them.

  Args:
    tolerance: below 1 and above the least loss that there may be. 0 is "no
      worse than the full model", where losses may be negative.
    failure_prob: in (0, 1/2].
    loss_range: the numbers that a loss may be.

  Raises:
    ConfigError: one is out of range, or the bound would fail more often than
      hold, as when 0.95 was meant as the probability of success or the two were
      swapped.
  """
  lowest = loss_range.lower
  if not _is_number(tolerance) or not lowest < tolerance < 1.0:
    raise errors.ConfigError(
      f'{_TOLERANCE} must be a number in ({lowest:g}, 1) for losses'
      f' {loss_range.description}, got {tolerance!r}; {_USUAL}.'
    )
  check_failure_prob(failure_prob)
  if failure_prob > 0.5:
    swapped = tolerance < failure_prob
    hint = f', or the two are swapped: {failure_prob:g} is the tolerance'
    raise errors.ConfigError(
      f'failure_prob {failure_prob:g} (epsilon in CALM, delta in'
      ' Learn-then-Test) would let the bound fail more often than hold; for a'
      f' confidence of {failure_prob:g} it is {1.0 - failure_prob:.4g}'
      f'{hint if swapped else ""} (tolerance: delta in CALM, alpha in'
      ' Learn-then-Test).'
    )


def check_failure_prob(failure_prob: float) -> None:
  """Raises a ConfigError unless it is a number in (0, 1)."""
  if not _is_number(failure_prob) or not 0.0 < failure_prob < 1.0:
    raise errors.ConfigError(
      f'{_FAILURE_PROB} must be a number in (0, 1), got {failure_prob!r};'
      f' {_USUAL}.'
    )


def doubt(tolerance: float) -> str:
  """Returns '' or what is odd about a tolerance that is allowed."""
  if tolerance < 0.5:
    return ''
  return (
    f'A tolerance of {tolerance:g} (delta in CALM, alpha in Learn-then-Test)'
    f' allows a mean loss of {tolerance:g}; to keep {tolerance:g} of the'
    f' quality, it is {1.0 - tolerance:.4g}.'
  )


def _is_number(value) -> bool:
  return isinstance(value, numbers.Real) and not isinstance(value, bool)
