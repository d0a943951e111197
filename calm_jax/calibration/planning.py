"""How likely a calibration is to find a threshold of a given expected loss.

`power` knows what is possible without any loss. With some, chance decides; here
it is simulated, for losses that are 0 or one other number. They have any mean
and variance asked for; without a variance they are 0 and 1, which is the
greatest variance that losses in [0, 1] can have.
"""

import dataclasses

import numpy as np

from calm_jax import errors
from calm_jax.calibration import guarantee, p_values, power

# Simulated samples beyond it would take gigabytes.
_MAX_EXAMPLES = 2**15
_DRAWS = 1000


@dataclasses.dataclass(frozen=True)
class ExpectedLoss:
  """What a plan assumes of the losses at a threshold.

  Attributes:
    mean: in [0, 1).
    variance: at most mean (1 - mean), which None means: losses of 0 and 1.

  Raises:
    ConfigError: when made, if no losses in [0, 1] are such.
  """

  mean: float
  variance: float | None = None

  def __post_init__(self):
    greatest = self.mean * (1.0 - self.mean)
    variance = greatest if self.variance is None else self.variance
    # Written so that NaN fails it.
    if not (0.0 <= self.mean < 1.0 and 0.0 <= variance <= greatest + 1e-12):
      raise errors.ConfigError(
        'A mean loss must be in [0, 1) and its variance in [0, mean (1 -'
        f' mean)], got mean {self.mean} and variance {self.variance}.'
      )

  def sample(self, num_examples: int, draws: int, seed: int) -> np.ndarray:
    """Returns [n, draws] independent losses, each 0 or one other number."""
    power.check_count(num_examples)
    if self.mean == 0.0:
      return np.zeros((num_examples, draws))
    value = 1.0
    if self.variance is not None:
      # 0 and a, with share s of a, have mean s a, variance s a^2 - (s a)^2.
      value = min(1.0, self.mean + self.variance / self.mean)
    random = np.random.default_rng(seed)
    return value * (random.random((num_examples, draws)) < self.mean / value)


def chance_of_certifying(
  num_examples: int,
  tolerance: float,
  failure_prob: float,
  expected: ExpectedLoss,
  p_value: p_values.PValue = p_values.DEFAULT,
  draws: int = _DRAWS,
) -> float:
  """Returns how often a threshold of that expected loss passes its test.

  Args:
    num_examples: n.
    tolerance, failure_prob: both in (0, 1).
    expected: of the losses at the threshold.
    p_value: of the test.
    draws: simulated samples; the standard error of the chance is at most
      1 / (2 sqrt(draws)). They are the same ones in every call.

  Raises:
    ConfigError: a setting is out of range.
    DataError: there is no example.
  """
  guarantee.check_guarantee(tolerance, failure_prob)
  losses = expected.sample(num_examples, draws, seed=0)
  return float(np.mean(p_value(losses, tolerance) <= failure_prob))


def num_examples_for_chance(
  tolerance: float,
  failure_prob: float,
  expected: ExpectedLoss,
  p_value: p_values.PValue = p_values.DEFAULT,
  chance: float = 0.8,
  draws: int = _DRAWS,
) -> int:
  """Returns about how many examples certify the tolerance with that chance.

  About, because the chance is simulated, and because with losses of 0 and 1 an
  example more can be a bad bargain: counts are whole numbers.

  Raises:
    ConfigError: a setting is out of range, or needs more than 32,768 examples.
  """
  _check_chance(chance)
  return power.smallest_number(
    lambda count: (
      chance
      <= chance_of_certifying(
        count, tolerance, failure_prob, expected, p_value, draws
      )
    ),
    tolerance,
    _MAX_EXAMPLES,
  )


def tolerance_for_chance(
  num_examples: int,
  failure_prob: float,
  expected: ExpectedLoss,
  p_value: p_values.PValue = p_values.DEFAULT,
  chance: float = 0.8,
  draws: int = _DRAWS,
) -> float:
  """Returns the smallest tolerance that n examples certify with that chance.

  To three decimals, rounded up; 1.0 if there is none.

  Raises:
    ConfigError: a setting is out of range.
    DataError: there is no example.
  """
  _check_chance(chance)
  guarantee.check_guarantee(0.5, failure_prob)
  losses = expected.sample(num_examples, draws, seed=0)
  low, high = 0, 1000  # thousandths
  while high - low > 1:
    middle = (low + high) // 2
    passed = np.mean(p_value(losses, middle / 1000) <= failure_prob) >= chance
    low, high = (low, middle) if passed else (middle, high)
  return high / 1000


def _check_chance(chance: float) -> None:
  if not 0.0 < chance < 1.0:  # Written so that NaN fails it.
    raise errors.ConfigError(
      f'The chance of certifying must be in (0, 1), got {chance}; usual is 0.8.'
    )
