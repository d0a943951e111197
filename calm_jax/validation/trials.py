"""How the examples of a table are parted, many times over.

    ExampleTable, Plan -> Trials: R calibration samples, R test samples

At random, as CALM's Appendix B; drawn anew from the table as if it were the
population, in several sizes; or by groups of examples, where what is calibrated
on is unlike what is tested.
"""

import collections
import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from calm_jax import errors
from calm_jax.calibration import guarantee
from calm_jax.validation import naive, samples

# Of a group, so that a fifth of it is worth testing on.
MIN_GROUP_SIZE = 20

# Finer where the paper's are: 0.1 and 0.25 (textual), 0.02 and 0.05 (risk).
TOLERANCES = (
  *(0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.08, 0.1, 0.12, 0.14, 0.16, 0.18),
  *(0.2, 0.225, 0.25, 0.275, 0.3, 0.35, 0.4),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
  """What is tried.

  Attributes:
    tolerances: each in (0, 1).
    failure_prob: of the calibrated rules.
    num_trials: random splits.
    test_share: of the examples that a trial tests on.
    sizes: of calibration samples, as far as there are examples.
    seed: of the splits, which are the same for all tables of one size.

  Raises:
    ConfigError: a number out of range.
  """

  tolerances: tuple[float, ...] = TOLERANCES
  failure_prob: float = 0.05
  num_trials: int = 50
  test_share: float = 0.2
  sizes: tuple[int, ...] = (25, 50, 100, 200, 400, 800, 1600, 3200)
  seed: int = 0

  def __post_init__(self):
    _require(bool(self.tolerances), 'tolerances must not be empty')
    for tolerance in self.tolerances:
      guarantee.check_guarantee(tolerance, self.failure_prob)
    _require(
      sorted(set(self.tolerances)) == list(self.tolerances),
      f'tolerances must rise, got {list(self.tolerances)}',
    )
    _require(
      self.num_trials >= 1,
      f'num_trials must be at least 1, got {self.num_trials}',
    )
    _require(
      0.0 < self.test_share < 1.0,
      f'test_share must be in (0, 1), got {self.test_share}',
    )
    _require(
      all(size >= 1 for size in self.sizes),
      f'sizes must be at least 1, got {list(self.sizes)}',
    )
    _require(self.seed >= 0, f'seed must be at least 0, got {self.seed}')

  def num_test(self, num_examples: int) -> int:
    """Examples of a test part."""
    return min(max(1, round(self.test_share * num_examples)), num_examples - 1)


@dataclasses.dataclass(frozen=True, eq=False)
class Trials:
  """R times a calibration and a test part, and what there is to be tested.

  Attributes:
    calibration: R samples.
    test: R samples, of the population.
    population: [G] means over all examples that could be tested.
    calibrated_on, tested_on: names of the groups.
  """

  calibration: samples.Samples
  test: samples.Samples
  population: naive.Means
  calibrated_on: str = 'all'
  tested_on: str = 'all'


def random_splits(table: samples.ExampleTable, plan: Plan) -> Trials:
  """Calibration and test parts drawn at random, without overlap.

  Together they are all examples, so what is calibrated on is most of what there
  is: the population holds few surprises for it, but the test part is small and
  has some of its own.

  Raises:
    DataError: there are fewer than two examples.
  """
  if table.num_examples < 2:
    raise errors.DataError(
      'A validation needs examples to calibrate on and others to test on, so'
      f' at least 2, got {table.num_examples}.'
    )
  orders = _random_orders(table.num_examples, plan)
  num_test = plan.num_test(table.num_examples)
  return Trials(
    calibration=samples.Samples(table, orders[:, num_test:]),
    test=samples.Samples(table, orders[:, :num_test]),
    population=table.means(),
  )


def trials_by_size(table: samples.ExampleTable, plan: Plan) -> Iterator[Trials]:
  """Calibration on ever more examples, as if the table were the population.

  They are drawn with replacement, so that they are independent, as the
  guarantee has it, and the mean over the whole table is the expected loss
  itself, known without error. Sizes are the plan's, that of a random split's
  calibration part, and that of the table.
  """
  num_examples = table.num_examples
  num_test = plan.num_test(num_examples)
  sizes = {x for x in plan.sizes if x < num_examples}
  draw = np.random.default_rng(plan.seed).integers
  test = draw(num_examples, size=(plan.num_trials, num_test))
  chosen = draw(num_examples, size=(plan.num_trials, num_examples))
  population = table.means()
  for size in sorted(sizes | {num_examples - num_test, num_examples}):
    yield Trials(
      calibration=samples.Samples(table, chosen[:, :size]),
      test=samples.Samples(table, test),
      population=population,
    )


def check_groups(groups: Sequence[str]) -> None:
  """Raises a DataError unless there are two groups or more, none too small."""
  counts = collections.Counter(groups)
  if len(counts) < 2 or min(counts.values()) < MIN_GROUP_SIZE:
    raise errors.DataError(
      'A shift needs at least two groups of at least'
      f' {MIN_GROUP_SIZE} examples each, got {dict(sorted(counts.items()))}.'
    )


def trials_by_group(
  table: samples.ExampleTable, plan: Plan, groups: Sequence[str]
) -> Iterator[Trials]:
  """Each group tested after calibration on itself, and on all others.

  The second breaks what the guarantee rests on: that the examples to come are
  drawn as those were that it was calibrated on.

  Args:
    table: of all examples.
    plan: how many trials, and of what size.
    groups: [N], the group of each example.

  Raises:
    DataError: as `check_groups`.
  """
  check_groups(groups)
  labels = np.asarray(groups)
  names = np.unique(labels)
  for name in names.tolist():
    inside = np.flatnonzero(labels == name)
    outside = np.flatnonzero(labels != name)
    others = f'all but {name}' if len(names) > 2 else _other(names, name)
    within = random_splits(table.rows(inside), plan)
    yield dataclasses.replace(within, calibrated_on=name, tested_on=name)
    num_test = plan.num_test(len(outside))
    orders = outside[_random_orders(len(outside), plan)[:, num_test:]]
    yield dataclasses.replace(
      within,
      calibration=samples.Samples(table, orders),
      calibrated_on=others,
      tested_on=name,
    )


def _random_orders(num_examples: int, plan: Plan) -> np.ndarray:
  """[R, N], a random order of the examples for each trial."""
  orders = np.tile(np.arange(num_examples), (plan.num_trials, 1))
  return np.random.default_rng(plan.seed).permuted(orders, axis=1)


def _other(names: np.ndarray, name: str) -> str:
  return next(other for other in names.tolist() if other != name)


def _require(condition: bool, message: str) -> None:
  if not condition:
    raise errors.ConfigError(f'{message}.')
