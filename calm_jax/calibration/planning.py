"""How likely a calibration is to find a threshold of a given expected loss.

`power` knows what is possible without any loss. With some, chance decides; here
it is simulated, for losses that are 0 or one other number. They have any mean
and variance asked for; without a variance they are 0 and 1, which is the
greatest variance that losses in [0, 1] can have.
"""

import numpy as np

from calm_jax import errors
from calm_jax.calibration import guarantee, p_values, power

# Simulated samples beyond it would take gigabytes.
_MAX_EXAMPLES = 2**15


def chance_of_certifying(
  num_examples: int,
  tolerance: float,
  failure_prob: float,
  p_value: p_values.PValue = p_values.DEFAULT,
  mean_loss: float = 0.0,
  variance: float | None = None,
  draws: int = 1000,
  seed: int = 0,
) -> float:
  """Returns how often a threshold of that expected loss passes its test.

  Args:
    num_examples: n.
    tolerance, failure_prob: both in (0, 1).
    p_value: of the test.
    mean_loss: expected loss at the threshold, in [0, 1).
    variance: of a loss, at most mean_loss (1 - mean_loss), which None means.
    draws: simulated samples; the standard error is at most
      1 / (2 sqrt(draws)).
    seed: of the simulation; the same one makes answers comparable.

  Raises:
    ConfigError: a setting is out of range.
    DataError: there is no example.
  """
  guarantee.check_guarantee(tolerance, failure_prob)
  power.check_count(num_examples)
  losses = _simulated(num_examples, mean_loss, variance, draws, seed)
  return float(np.mean(p_value(losses, tolerance) <= failure_prob))


def num_examples_for_chance(
  tolerance: float,
  failure_prob: float,
  p_value: p_values.PValue = p_values.DEFAULT,
  mean_loss: float = 0.0,
  variance: float | None = None,
  chance: float = 0.8,
  draws: int = 1000,
) -> int:
  """Returns about how many examples certify the tolerance with that chance.

  About, because the chance is simulated, and because of losses of 0 and 1 one
  example more can be a bad bargain: counts are whole numbers.

  Raises:
    ConfigError: a setting is out of range, or needs more than 32,768 examples.
  """
  guarantee.check_guarantee(tolerance, failure_prob)
  return power.smallest_number(
    lambda count: (
      chance_of_certifying(
        count, tolerance, failure_prob, p_value, mean_loss, variance, draws
      )
      >= chance
    ),
    tolerance,
    _MAX_EXAMPLES,
  )


def tolerance_for_chance(
  num_examples: int,
  failure_prob: float,
  p_value: p_values.PValue = p_values.DEFAULT,
  mean_loss: float = 0.0,
  variance: float | None = None,
  chance: float = 0.8,
  draws: int = 1000,
) -> float:
  """Returns the smallest tolerance that n examples certify with that chance.

  To three decimals, rounded up; 1.0 if there is none.

  Raises:
    ConfigError: a setting is out of range.
    DataError: there is no example.
  """
  guarantee.check_guarantee(0.5, failure_prob)
  power.check_count(num_examples)
  losses = _simulated(num_examples, mean_loss, variance, draws, 0)
  low, high = 0, 1000  # thousandths
  while high - low > 1:
    middle = (low + high) // 2
    passed = np.mean(p_value(losses, middle / 1000) <= failure_prob) >= chance
    low, high = (low, middle) if passed else (middle, high)
  return high / 1000


def _simulated(
  num_examples: int,
  mean_loss: float,
  variance: float | None,
  draws: int,
  seed: int,
) -> np.ndarray:
  """[n, draws] independent losses."""
  greatest = mean_loss * (1.0 - mean_loss)
  variance = greatest if variance is None else variance
  # Written so that NaN fails it.
  if not (0.0 <= mean_loss < 1.0 and 0.0 <= variance <= greatest + 1e-12):
    raise errors.ConfigError(
      'A mean loss must be in [0, 1) and its variance in [0, mean (1 - mean)],'
      f' got mean {mean_loss} and variance {variance}.'
    )
  if mean_loss == 0.0:
    return np.zeros((num_examples, draws))
  # Of 0 and a, with share s of a: mean s a, variance s a^2 - (s a)^2.
  value = min(1.0, mean_loss + variance / mean_loss)
  random = np.random.default_rng(seed)
  return value * (random.random((num_examples, draws)) < mean_loss / value)
