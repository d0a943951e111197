"""Several choices under one guarantee.

Whoever calibrates four measures and takes the one with the fewest layers has
four chances to go wrong. Here the whole choice is promised:

* `ParetoTesting`: one of many candidates, such as measures times thresholds;
* `calibrate_curve`: a threshold for each of several tolerances, all valid;
* `calibrate_groups`: a threshold for each kind of text.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from calm_jax import errors
from calm_jax.calibration import (
  arrays,
  choices,
  guarantee,
  loss_ranges,
  multiple_testing,
  outcomes,
  p_values,
  threshold_selection,
)

# `Chosen` has a field of the module's name.
_PValue = p_values.PValue


@dataclasses.dataclass(frozen=True, eq=False)
class Chosen:
  """What `ParetoTesting` decided.

  Attributes:
    candidate: number of the cheapest certified one; None if none is.
    tested: numbers of the candidates in the order of the tests.
    certified: [len(tested)] bool.
    p_values: [len(tested)].
    num_ordering, num_certifying: examples of the two parts.
    p_value: that was used, with all its knobs.
  """

  candidate: int | None
  tested: tuple[int, ...]
  certified: np.ndarray
  p_values: np.ndarray
  num_ordering: int
  num_certifying: int
  p_value: _PValue


@dataclasses.dataclass(frozen=True)
class ParetoTesting:
  """Orders candidates on one part of the examples, certifies on the other.

  On the first part the candidates are found that no other one beats in both
  loss and cost, and put into the order of their losses there. On the second
  part they are tested in that order, each at the full failure probability,
  until one fails. The parts are independent, so the order is fixed before the
  losses of the second are seen: fixed sequence testing (Laufer-Goldshtein et
  al. 2023, Efficiently controlling multiple risks with Pareto testing). All
  that is certified holds at once, so the cheapest of it may be taken.

  Attributes:
    ordering_share: of the examples that only order, in (0, 1).
    seed: of the random parts.

  Raises:
    ConfigError: when made, if a knob is out of range.
  """

  ordering_share: float = 0.25
  seed: int = 0

  def __post_init__(self):
    if not 0.0 < self.ordering_share < 1.0:
      raise errors.ConfigError(
        f'ordering_share must be in (0, 1), got {self.ordering_share}.'
      )

  def parts(self, num_examples: int) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the examples that order, and of those that certify.

    Raises:
      DataError: fewer than two examples.
    """
    if num_examples < 2:
      raise errors.DataError(
        f'Pareto testing needs at least two examples, got {num_examples}.'
      )
    # Another stream than that of the order in which bets are placed.
    order = np.random.default_rng([self.seed, 1]).permutation(num_examples)
    size = round(self.ordering_share * num_examples)
    size = min(max(size, 1), num_examples - 1)
    return order[:size], order[size:]

  def __call__(
    self,
    losses: np.ndarray,
    costs: np.ndarray,
    tolerance: float,
    failure_prob: float,
    p_value: p_values.PValue | str | None = None,
    loss_range: loss_ranges.LossRange = loss_ranges.UNIT,
  ) -> Chosen:
    """Chooses among candidates.

    Args:
      losses: [N, C] in `loss_range`, of independent examples.
      costs: [N, C] or [C], such as layers; the lower the better.
      tolerance, failure_prob, p_value: as for `calibrate`.
      loss_range: the numbers that a loss may be.

    Raises:
      ConfigError: a setting is out of range or does not hold for the losses.
      DataError: losses or costs are none.
    """
    guarantee.check_guarantee(tolerance, failure_prob, loss_range)
    p_value = choices.settle_p_value(p_value, loss_range).aimed_at(failure_prob)
    losses = loss_range.checked(losses)
    costs = arrays.numbers(costs, 'Costs')
    if (
      losses.ndim != 2
      or not losses.size
      or costs.shape[-1:] != (losses.shape[1],)
    ):
      raise errors.DataError(
        'Losses must be [examples, candidates], and costs the same or'
        f' [candidates], got {losses.shape} and {costs.shape}.'
      )
    costs = np.broadcast_to(costs, losses.shape)
    first, second = self.parts(len(losses))
    tested = _undominated(losses[first].mean(axis=0), costs[first].mean(axis=0))
    values = p_value(losses[second][:, tested], tolerance)
    certified = multiple_testing.FixedSequence()(values, failure_prob)
    passed = np.array(tested)[certified]
    best = None
    if len(passed):
      best = int(passed[np.argmin(costs[:, passed].mean(axis=0))])
    return Chosen(
      candidate=best,
      tested=tuple(tested),
      certified=certified,
      p_values=values,
      num_ordering=len(first),
      num_certifying=len(second),
      p_value=p_value,
    )


def calibrate_curve(
  losses: np.ndarray,
  thresholds: Sequence[float],
  tolerances: Sequence[float],
  failure_prob: float,
  **choices_made: Any,
) -> tuple[outcomes.Outcome, ...]:
  """Returns a threshold for each tolerance; with one probability all hold.

  Each is calibrated at failure_prob / len(tolerances) (union bound).

  Args:
    losses, thresholds: as for `calibrate`.
    tolerances: any number of them, fixed beforehand.
    failure_prob: that any of the promises does not hold.
    **choices_made: further arguments of `calibrate`.

  Raises:
    ConfigError: no tolerance; and as `calibrate`.
    DataError: as `calibrate`.
  """
  check_curve(tolerances, failure_prob)
  return tuple(
    _shared(
      threshold_selection.calibrate(
        losses,
        thresholds,
        tolerance,
        failure_prob / len(tolerances),
        **choices_made,
      ),
      f'one of {len(tolerances)} tolerances',
      failure_prob,
    )
    for tolerance in tolerances
  )


def check_curve(tolerances: Sequence[float], failure_prob: float) -> None:
  """Raises a ConfigError unless there are tolerances, each once."""
  if not len(tolerances) or len(set(tolerances)) < len(tolerances):
    raise errors.ConfigError(
      f'A curve needs tolerances, each once, got {list(tolerances)}.'
    )
  guarantee.check_failure_prob(failure_prob)


def calibrate_groups(
  losses: np.ndarray,
  thresholds: Sequence[float],
  groups: Sequence[str],
  tolerance: float,
  failure_prob: float,
  **choices_made: Any,
) -> dict[str, outcomes.Outcome]:
  """Returns a threshold for each group of texts; all hold with one probability.

  The group of a text must be a function of its input alone, such as a bucket of
  lengths, a task or a language, so that it is known before decoding. Each group
  is calibrated on its own texts at failure_prob / number of groups.

  Args:
    losses, thresholds, tolerance: as for `calibrate`.
    groups: [N], the group of each example.
    failure_prob: that the promise fails for any group.
    **choices_made: further arguments of `calibrate`.

  Raises:
    ConfigError: as `calibrate`.
    DataError: not one group for each example; and as `calibrate`.
  """
  losses = np.asarray(losses) if not np.ma.isMA(losses) else losses
  labels = np.array(arrays.names(groups, len(losses)))
  guarantee.check_failure_prob(failure_prob)
  names = np.unique(labels).tolist()
  ids = choices_made.pop('example_ids', None)
  found = {}
  for name in names:
    inside = np.flatnonzero(labels == name)
    outcome = threshold_selection.calibrate(
      losses[inside],
      thresholds,
      tolerance,
      failure_prob / len(names),
      example_ids=None if ids is None else np.asarray(ids)[inside],
      **choices_made,
    )
    found[name] = _shared(
      outcome, f'texts of the group {name!r}, one of {len(names)}', failure_prob
    )
  return found


def _shared(
  outcome: outcomes.Outcome, part: str, failure_prob: float
) -> outcomes.Outcome:
  reason = f'{outcome.reason} {shared_reason(part, failure_prob)}'
  return dataclasses.replace(outcome, reason=reason)


def shared_reason(part: str, failure_prob: float) -> str:
  """Says in a reason that a failure probability is shared."""
  return (
    f'This is for {part}, which share a failure probability of'
    f' {failure_prob:g}.'
  )


def _undominated(losses: np.ndarray, costs: np.ndarray) -> list[int]:
  """[C], [C] -> numbers of those that no other beats in both, by their loss."""
  kept: list[int] = []
  # Of equal losses the cheapest first; each must be cheaper than all before.
  for candidate in np.lexsort((costs, losses)).tolist():
    if not kept or costs[candidate] < costs[kept[-1]]:
      kept.append(candidate)
  return kept
