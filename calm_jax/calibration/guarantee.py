"""What a user asks for: a tolerance, and the probability of missing it."""

import numpy as np

from calm_jax import errors


def check_guarantee(tolerance: float, failure_prob: float) -> None:
  """Checks both settings, before anything is computed for them.

  Raises:
    ConfigError: one is no number in (0, 1), or the bound would fail more often
      than hold, as when 0.95 was meant as the probability of success or the
      two were swapped.
  """
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


def doubt(tolerance: float) -> str:
  """Returns '' or what is odd about a tolerance that is allowed."""
  if tolerance < 0.5:
    return ''
  return (
    f'A tolerance of {tolerance:g} (delta in CALM, alpha in Learn-then-Test)'
    f' allows a mean loss of {tolerance:g}; to keep {tolerance:g} of the'
    f' quality, it is {1.0 - tolerance:.4g}.'
  )
