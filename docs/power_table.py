"""The tables of docs/calibration.md: what a number of examples can certify.

python -m docs.power_table
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from calm_jax.calibration import choices, planning, power

FAILURE_PROB = 0.05
_Case = TypeVar('_Case')
_COUNTS = (20, 50, 100, 300, 1000, 3000, 10000)
_TOLERANCES = (0.02, 0.05, 0.1, 0.2)
# Without any loss the binomial bound is that of Hoeffding and Bentkus, and
# betting with and without recalculated targets are the same.
_WITHOUT_LOSS = (
  'star_bets',
  'hoeffding_bentkus',
  'hoeffding',
  'empirical_bernstein',
)
_WITH_LOSS = (
  'binomial',
  'star_bets',
  'betting',
  'hoeffding_bentkus',
  'empirical_bernstein',
)


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

  def cell(count: int, name: str) -> str:
    tolerance = power.smallest_certifiable_tolerance(
      count, failure_prob, choices.P_VALUES[name]
    )
    # Rounded up: a tolerance that is promised must be certified.
    return f'{math.ceil(tolerance * 1e4) / 1e4:.4f}'

  return _markdown('n', _COUNTS, {x: x for x in _WITHOUT_LOSS}, cell)


def needed_without_loss(failure_prob: float) -> str:
  """Returns the table of `smallest_certifying_num_examples`."""

  def cell(tolerance: float, name: str) -> str:
    number = power.smallest_certifying_num_examples(
      tolerance, failure_prob, choices.P_VALUES[name]
    )
    return str(number)

  return _markdown(
    'tolerance', _TOLERANCES, {x: x for x in _WITHOUT_LOSS}, cell
  )


def needed_with_loss(failure_prob: float) -> str:
  """Returns the table of `num_examples_for_chance`.

  For losses of 0 and 1, and for such whose standard deviation is their mean.
  """
  cases = {
    f'{name}, {kind}': (name, kind)
    for kind in ('0 or 1', 'small variance')
    for name in _WITH_LOSS
    if name != 'binomial' or kind == '0 or 1'
  }

  def cell(tolerance: float, case: tuple[str, str]) -> str:
    name, kind = case
    half = tolerance / 2
    number = planning.num_examples_for_chance(
      tolerance,
      failure_prob,
      planning.ExpectedLoss(half, None if kind == '0 or 1' else half**2),
      choices.P_VALUES[name],
    )
    return str(number)

  return _markdown('tolerance', _TOLERANCES, cases, cell)


def _markdown(
  corner: str,
  rows: Sequence[float],
  columns: Mapping[str, _Case],
  cell: Callable[[Any, _Case], str],
) -> str:
  """A table of `cell(row, columns[header])`."""
  lines = [[corner, *columns], ['---:'] * (len(columns) + 1)]
  lines += [
    [f'{row:g}', *(cell(row, case) for case in columns.values())]
    for row in rows
  ]
  return '\n'.join(f'| {" | ".join(cells)} |' for cells in lines)


if __name__ == '__main__':
  print(tables())
