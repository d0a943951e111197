"""The tables of docs/calibration.md: what a number of examples can certify.

python -m calm_jax.calibration.power_table
"""

import math
from collections.abc import Sequence

from calm_jax.calibration import choices, planning, power

FAILURE_PROB = 0.05
_COUNTS = (20, 50, 100, 300, 1000, 3000, 10000)
_TOLERANCES = (0.02, 0.05, 0.1, 0.2)
# Without any loss the binomial bound is that of Hoeffding and Bentkus.
_WITHOUT_LOSS = (
  'hoeffding',
  'hoeffding_bentkus',
  'betting',
  'empirical_bernstein',
)
_WITH_LOSS = ('binomial', 'hoeffding_bentkus', 'betting', 'empirical_bernstein')


def tables(failure_prob: float = FAILURE_PROB) -> str:
  """Returns the three tables as Markdown."""
  at = f'at failure probability {failure_prob:g}'
  return '\n\n'.join(
    [
      f'Smallest tolerance that n examples without any loss certify, {at}:',
      smallest_tolerances(failure_prob),
      f'Examples without any loss that certify a tolerance, {at}:',
      needed_without_loss(failure_prob),
      'Examples that certify a tolerance with a chance of 80%, if the expected'
      f' loss is half of it, {at}:',
      needed_with_loss(failure_prob),
    ]
  )


def smallest_tolerances(failure_prob: float) -> str:
  """Returns the table of `smallest_certifiable_tolerance`."""
  rows = []
  for count in _COUNTS:
    values = (
      power.smallest_certifiable_tolerance(
        count, failure_prob, choices.P_VALUES[name]
      )
      for name in _WITHOUT_LOSS
    )
    # Rounded up: a tolerance that is promised must be certified.
    rows.append([str(count), *(_rounded_up(value) for value in values)])
  return _markdown(['n', *_WITHOUT_LOSS], rows)


def needed_without_loss(failure_prob: float) -> str:
  """Returns the table of `smallest_certifying_num_examples`."""
  rows = []
  for tolerance in _TOLERANCES:
    numbers = (
      power.smallest_certifying_num_examples(
        tolerance, failure_prob, choices.P_VALUES[name]
      )
      for name in _WITHOUT_LOSS
    )
    rows.append([f'{tolerance:g}', *map(str, numbers)])
  return _markdown(['tolerance', *_WITHOUT_LOSS], rows)


def needed_with_loss(failure_prob: float) -> str:
  """Returns the table of `num_examples_for_chance`.

  For losses of 0 and 1, and for such whose standard deviation is their mean.
  """
  cases = [
    (name, coins)
    for coins in (True, False)
    for name in _WITH_LOSS
    if coins or name != 'binomial'
  ]
  rows = []
  for tolerance in _TOLERANCES:
    half = tolerance / 2
    numbers = (
      planning.num_examples_for_chance(
        tolerance,
        failure_prob,
        choices.P_VALUES[name],
        mean_loss=half,
        variance=None if coins else half**2,
      )
      for name, coins in cases
    )
    rows.append([f'{tolerance:g}', *map(str, numbers)])
  header = [
    f'{name}, {"0 or 1" if coins else "small variance"}'
    for name, coins in cases
  ]
  return _markdown(['tolerance', *header], rows)


def _rounded_up(tolerance: float) -> str:
  return f'{math.ceil(tolerance * 1e4) / 1e4:.4f}'


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
  lines = [header, ['---:'] * len(header), *rows]
  return '\n'.join(f'| {" | ".join(cells)} |' for cells in lines)


if __name__ == '__main__':
  print(tables())
