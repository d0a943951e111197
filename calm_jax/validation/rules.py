"""Does a rule keep its tolerance? Every rule on the same trials.

    Trials, rules -> ValidationRow per rule and tolerance

As CALM's Appendix B: each rule chooses its threshold on the calibration part of
a trial, and the mean loss on the test part tells. Nothing is decoded again: all
is in the table, so a thousand trials take seconds.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from calm_jax.validation import (
  intervals,
  naive,
  samples,
  trials,
  validation_records,
)

Rule = naive.NaiveRule | samples.CalibratedRule


@dataclasses.dataclass(frozen=True)
class Source:
  """Where a table came from, as it stands in rows."""

  dump: str
  measure: str
  threshold_schedule: str
  consistency: str
  metric: str


def rows_of(
  parts: trials.Trials,
  rules: Sequence[Rule],
  plan: trials.Plan,
  source: Source,
  experiment: str = validation_records.RANDOM_SPLITS,
  with_oracle: bool = True,
) -> list[validation_records.ValidationRow]:
  """Every rule at every tolerance.

  Args:
    parts: the samples.
    rules: naive and calibrated ones.
    plan: gives the tolerances.
    source: goes into the rows.
    experiment: likewise.
    with_oracle: whether the oracle is among the rules.
  """
  oracle = (naive.Oracle(parts.population),) if with_oracle else ()
  return [
    _row(parts, rule, tolerance, plan, source, experiment)
    for rule in (*rules, *oracle)
    for tolerance in plan.tolerances
  ]


def choices_of(
  parts: trials.Trials, rule: Rule, tolerance: float
) -> np.ndarray:
  """[R], the place in the grid that the rule chose in each trial."""
  if isinstance(rule, samples.CalibratedRule):
    return rule.columns(parts.calibration, tolerance)
  return rule.columns(parts.calibration.means, tolerance)


def _row(parts, rule, tolerance, plan, source, experiment):
  columns = choices_of(parts, rule, tolerance)
  test = parts.test.means

  def chosen(means):
    return np.take_along_axis(means, columns[:, None], axis=1)[:, 0]

  test_losses = chosen(test.losses)
  population_losses = parts.population.losses[columns]
  thresholds = np.asarray(test.thresholds)[columns]
  return validation_records.ValidationRow(
    experiment=experiment,
    **dataclasses.asdict(source),
    rule=rule.name,
    kind=rule.kind,
    tolerance=tolerance,
    failure_prob=plan.failure_prob,
    calibrated_on=parts.calibrated_on,
    tested_on=parts.tested_on,
    num_trials=len(columns),
    num_calibration=parts.calibration.chosen.shape[1],
    num_test=parts.test.chosen.shape[1],
    **_violations('violations_on_test', test_losses, tolerance),
    **_violations('violations_on_population', population_losses, tolerance),
    **_spread('test_loss', test_losses),
    **_spread('population_loss', population_losses),
    **_spread('layers', chosen(test.layers)),
    **_spread('score', chosen(test.scores)),
    **_spread('threshold', thresholds),
    full_model=float(np.mean(thresholds == 1.0)),
  )


def _violations(name, losses, tolerance):
  violated = int(np.sum(losses > tolerance + naive.ROUNDING))
  low, high = intervals.clopper_pearson(violated, len(losses))
  return {
    name: violated / len(losses),
    f'{name}_low': float(low),
    f'{name}_high': float(high),
  }


def _spread(name, values):
  return {name: float(np.mean(values)), f'{name}_sd': float(np.std(values))}
