"""What a calibration of a given size can certify, before it is run.

Even examples without any loss leave doubt: with n of them, Hoeffding-Bentkus
gives p = (1 - tolerance)^n. So there is a smallest tolerance for each n, and a
smallest n for each tolerance. Whoever expects some loss may assume its mean and
variance: the answers are then for a sample that is exactly typical, which a
real one reaches about every second time, and `chance_of_certifying` gives the
probability itself.
"""

import math

import numpy as np

from calm_jax import errors
from calm_jax.calibration import guarantee, p_values

# Beyond it the search itself would take gigabytes.
_MAX_EXAMPLES = 10**6


def smallest_certifiable_tolerance(
  num_examples: int,
  failure_prob: float,
  p_value: p_values.PValue = p_values.DEFAULT,
  mean_loss: float = 0.0,
  variance: float | None = None,
) -> float:
  """Returns the smallest tolerance that n examples certify.

  Args:
    num_examples: n.
    failure_prob: in (0, 1).
    p_value: decreasing in the tolerance, as all in this room are.
    mean_loss: of the sample; without loss the tolerance is the smallest ever.
    variance: of the sample; None for losses of 0 or 1, the greatest variance.

  Returns:
    The tolerance; 1.0, which every loss keeps anyway, if none can be certified.

  Raises:
    ConfigError: the failure probability is not in (0, 1), or no losses in
      [0, 1] have that mean and variance.
    DataError: there is no example.
  """
  if num_examples < 1:
    raise errors.DataError(
      f'Calibration needs at least one example, got {num_examples}.'
    )
  guarantee.check_guarantee(0.5, failure_prob)
  losses = typical_losses(num_examples, mean_loss, variance)
  low, high = 0.0, 1.0
  while (middle := (low + high) / 2) not in (low, high):
    if p_value(losses, middle) <= failure_prob:
      high = middle
    else:
      low = middle
  return high


def smallest_certifying_num_examples(
  tolerance: float,
  failure_prob: float,
  p_value: p_values.PValue = p_values.DEFAULT,
  mean_loss: float = 0.0,
  variance: float | None = None,
) -> int:
  """Returns how many examples certify the tolerance.

  Args:
    tolerance, failure_prob: both in (0, 1).
    p_value, mean_loss, variance: as above. With loss, counts are rounded, so
      that the number is right to a few examples only.

  Raises:
    ConfigError: a setting is out of range, the tolerance is not above the mean
      loss, or it needs more than a million examples.
  """
  guarantee.check_guarantee(tolerance, failure_prob)
  if mean_loss >= tolerance:
    raise errors.ConfigError(
      f'A tolerance of {tolerance:g} must be above the mean loss to be'
      f' certified, got a mean loss of {mean_loss:g}.'
    )

  def certifies(count: int) -> bool:
    losses = typical_losses(count, mean_loss, variance)
    return bool(p_value(losses, tolerance) <= failure_prob)

  high = 1
  while not certifies(high):
    high *= 2
    if high > _MAX_EXAMPLES:
      raise errors.ConfigError(
        f'A tolerance of {tolerance:g} needs more than {_MAX_EXAMPLES:.0e}'
        ' examples; choose a larger one.'
      )
  low = high // 2  # does not certify
  while high - low > 1:
    middle = (low + high) // 2
    low, high = (low, middle) if certifies(middle) else (middle, high)
  return high


def chance_of_certifying(
  num_examples: int,
  tolerance: float,
  failure_prob: float,
  p_value: p_values.PValue = p_values.DEFAULT,
  mean_loss: float = 0.0,
  variance: float | None = None,
  draws: int = 2000,
  seed: int = 0,
) -> float:
  """Returns how often a threshold of that expected loss passes its test.

  By simulation of `draws` samples of the two losses that `typical_losses` has.
  The standard error is at most 1 / (2 sqrt(draws)).
  """
  guarantee.check_guarantee(tolerance, failure_prob)
  share, value = _two_losses(mean_loss, variance)
  random = np.random.default_rng(seed)
  losses = value * (random.random((num_examples, draws)) < share)
  return float(np.mean(p_value(losses, tolerance) <= failure_prob))


def typical_losses(
  num_examples: int, mean_loss: float, variance: float | None = None
) -> np.ndarray:
  """Returns [n] losses, each 0 or one other number, of that mean and variance.

  Among losses in [0, 1] those of 0 and 1 have the greatest variance. The number
  of examples with loss is rounded up; the mean is kept by a slightly smaller
  loss, unless the losses are to be 0 and 1.

  Raises:
    ConfigError: there are no such losses in [0, 1].
  """
  share, value = _two_losses(mean_loss, variance)
  count = math.ceil(num_examples * share - 1e-9)
  if variance is not None and count:
    value = min(value, num_examples * mean_loss / count)
  # Spread evenly, so that no beginning of the sample is luckier than another.
  steps = np.arange(num_examples + 1) * count // num_examples
  return value * np.diff(steps)


def warning(
  num_examples: int,
  tolerance: float,
  failure_prob: float,
  p_value: p_values.PValue = p_values.DEFAULT,
) -> str:
  """Returns '' or why no early exit can be certified with so few examples."""
  if p_value(np.zeros(num_examples), tolerance) <= failure_prob:
    return ''
  smallest = smallest_certifiable_tolerance(num_examples, failure_prob, p_value)
  try:
    needed = smallest_certifying_num_examples(tolerance, failure_prob, p_value)
  except errors.ConfigError:
    needed = _MAX_EXAMPLES  # A lower bound: such a tolerance is no plan.
  return (
    f'{num_examples} examples can never certify a tolerance of {tolerance:g} at'
    f' failure probability {failure_prob:.4g}, even without any loss: use at'
    f' least {needed} examples or a tolerance of at least'
    f' {math.ceil(smallest * 1000) / 1000:g}.'
  )


def _two_losses(
  mean_loss: float, variance: float | None
) -> tuple[float, float]:
  """(share of examples with loss, that loss) of the mean and variance."""
  greatest = mean_loss * (1.0 - mean_loss)
  variance = greatest if variance is None else variance
  # Written so that NaN fails it.
  if not (0.0 <= mean_loss < 1.0 and 0.0 <= variance <= greatest + 1e-12):
    raise errors.ConfigError(
      'A mean loss must be in [0, 1) and its variance at most mean (1 - mean),'
      f' got mean {mean_loss} and variance {variance}.'
    )
  if mean_loss == 0.0:
    return 0.0, 0.0
  value = min(1.0, mean_loss + variance / mean_loss)
  return mean_loss / value, value
