"""How likely a calibration is to find a threshold of a given expected loss.

`power` knows what is possible without any loss. With some, chance decides; here
it is simulated, for losses that are 0 or one other number. They have any mean
and variance asked for; without a variance they are 0 and 1, which is the
greatest variance that losses in [0, 1] can have.
"""

import dataclasses

import numpy as np
from scipy import special

from calm_jax import errors
from calm_jax.calibration import choices, guarantee, p_values, power

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

  @property
  def value(self) -> float:
    """The loss of those that are lost; others lose nothing."""
    if self.variance is None or self.mean == 0.0:
      return 1.0
    # 0 and a, with share s of a, have mean s a, variance s a^2 - (s a)^2.
    return min(1.0, self.mean + self.variance / self.mean)

  def sample(self, num_examples: int, draws: int, seed: int) -> np.ndarray:
    """Returns [n, draws] independent losses, each 0 or one other number."""
    power.check_count(num_examples)
    if self.mean == 0.0:
      return np.zeros((num_examples, draws))
    random = np.random.default_rng(seed)
    lost = random.random((num_examples, draws)) < self.mean / self.value
    return self.value * lost


def chance_of_certifying(
  num_examples: int,
  tolerance: float,
  failure_prob: float,
  expected: ExpectedLoss,
  p_value: p_values.PValue = choices.DEFAULT_P_VALUE,
  draws: int = _DRAWS,
) -> float:
  """Returns how often a threshold of that expected loss passes its test.

  Exact for p-values of the sum, simulated for the others.

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
  power.check_count(num_examples)
  if isinstance(p_value, p_values.PValueOfTheSum):
    counts = np.array([num_examples])
    return float(
      _exact_chances(counts, tolerance, failure_prob, expected, p_value)[0]
    )
  losses = expected.sample(num_examples, draws, seed=0)
  values = p_value.aimed_at(failure_prob)(losses, tolerance)
  return float(np.mean(values <= failure_prob))


def num_examples_for_chance(
  tolerance: float,
  failure_prob: float,
  expected: ExpectedLoss,
  p_value: p_values.PValue = choices.DEFAULT_P_VALUE,
  chance: float = 0.8,
  draws: int = _DRAWS,
) -> int:
  """Returns how many examples certify the tolerance with that chance, for good.

  For good, because an example more can be a bad bargain where counts are whole
  numbers: this many suffice, and so does every larger number. Exact for
  p-values of the sum. For others the chance is simulated, so it is about right.

  Raises:
    ConfigError: a setting is out of range, needs more than 32,768 examples, or
      can be reached by no number of them.
  """
  _check_chance(chance)
  guarantee.check_guarantee(tolerance, failure_prob)
  if expected.mean >= tolerance and chance > failure_prob:
    raise errors.ConfigError(
      f'An expected loss of {expected.mean:g} is not below the tolerance of'
      f' {tolerance:g}, so however many examples there are, it is certified'
      f' with a chance of at most {failure_prob:g}; choose a larger tolerance.'
    )
  if isinstance(p_value, p_values.PValueOfTheSum):
    return _exact_number(tolerance, failure_prob, expected, p_value, chance)
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


def _exact_chances(
  counts: np.ndarray,
  tolerance: float,
  failure_prob: float,
  expected: ExpectedLoss,
  p_value: p_values.PValueOfTheSum,
) -> np.ndarray:
  """[k] numbers of examples -> [k] chances, as sums of binomial weights."""
  # The number of losses that still passes, by halving: low does, high does not.
  low, high = np.full(counts.shape, -1), counts + 1
  while np.any(high - low > 1):
    middle = (low + high) // 2
    values = p_value.from_totals(middle * expected.value, counts, tolerance)
    passes = values <= failure_prob
    unsettled = high - low > 1
    low = np.where(unsettled & passes, middle, low)
    high = np.where(unsettled & ~passes, middle, high)
  share = expected.mean / expected.value
  chances = special.bdtr(np.maximum(low, 0), counts, share)
  return np.where(low < 0, 0.0, chances)


def _exact_number(tolerance, failure_prob, expected, p_value, chance) -> int:
  """The number after the last one that does not suffice."""
  last_too_few, start = 0, 1
  while start <= _MAX_EXAMPLES:
    counts = np.arange(start, 2 * start)
    enough = chance <= _exact_chances(
      counts, tolerance, failure_prob, expected, p_value
    )
    # Where twice as many all suffice, no larger number fails.
    if enough.all():
      return last_too_few + 1
    last_too_few = int(counts[~enough][-1])
    start *= 2
  raise errors.ConfigError(
    f'A tolerance of {tolerance:g} needs more than {_MAX_EXAMPLES} examples;'
    ' choose a larger one.'
  )


def tolerance_for_chance(
  num_examples: int,
  failure_prob: float,
  expected: ExpectedLoss,
  p_value: p_values.PValue = choices.DEFAULT_P_VALUE,
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
  low, high = 0, 1000  # thousandths
  while high - low > 1:
    middle = (low + high) // 2
    passed = chance <= chance_of_certifying(
      num_examples, middle / 1000, failure_prob, expected, p_value, draws
    )
    low, high = (low, middle) if passed else (middle, high)
  return high / 1000


def _check_chance(chance: float) -> None:
  if not 0.0 < chance < 1.0:  # Written so that NaN fails it.
    raise errors.ConfigError(
      f'The chance of certifying must be in (0, 1), got {chance}; usual is 0.8.'
    )
