"""Chooses the exit threshold: losses in, the last certified threshold out.

Last step of the calibration, and the whole of it for a dump:

    dump -> risks -> p_values -> multiple_testing -> CalibrationResult

Guarantee (CALM, by Learn-then-Test): with probability at least
1 - failure_prob over the draw of the calibration examples, the expected loss of
a new example at the returned threshold is at most the tolerance. It needs
calibration and new examples from one distribution, and a grid and order fixed
before the losses were seen.
"""

import dataclasses
import functools
import os
from collections.abc import Sequence

import numpy as np

from calm_jax import contracts, errors, text_metrics
from calm_jax.calibration import multiple_testing, p_values, power, risks
from calm_jax.dump import reader

_DumpOrDirectory = str | os.PathLike | tuple[contracts.Manifest, contracts.Dump]


@dataclasses.dataclass(frozen=True, eq=False)
class Outcome:
  """What `calibrate` decided.

  Attributes:
    threshold: the last certified one; 1.0 (the full model) if none is.
    reason: one or two sentences on why it is this one.
    warning: '' or why this tolerance can never be certified.
    mean_losses, p_values, certified: [G], for the whole grid. At threshold 1
      there is nothing to test, so its p-value is 0.
    num_examples: N.
  """

  threshold: float
  reason: str
  warning: str
  mean_losses: np.ndarray
  p_values: np.ndarray
  certified: np.ndarray
  num_examples: int


def calibrate(
  losses: np.ndarray,
  thresholds: Sequence[float],
  tolerance: float,
  failure_prob: float,
  p_value: p_values.PValue = p_values.DEFAULT,
  procedure: multiple_testing.MultipleTesting = multiple_testing.DEFAULT,
  example_ids: Sequence[str] | None = None,
) -> Outcome:
  """Returns the lowest threshold that keeps the guarantee.

  Args:
    losses: [N, G] in [0, 1], of independent examples; 0 at threshold 1.
    thresholds: [G], strictly descending within [0, 1].
    tolerance: bound on the expected loss (delta in CALM, alpha in LTT).
    failure_prob: probability with which the bound may fail (epsilon, delta).
    p_value: for each threshold.
    procedure: decides with all p-values in hand.
    example_ids: [N], for messages.

  Raises:
    ConfigError: tolerance or failure probability outside (0, 1), thresholds
      missing or not descending.
    DataError: no examples, losses of another shape, not finite, outside [0, 1]
      or not 0 at threshold 1.
  """
  power.check_guarantee(tolerance, failure_prob)
  grid = _checked_grid(thresholds)
  losses = _checked_losses(losses, grid, example_ids)
  # Threshold 1 is the full model itself: its loss is 0, not just on average.
  tested = grid < 1.0
  values = np.zeros(len(grid))
  values[tested] = p_value(losses[:, tested], tolerance)
  certified = np.ones(len(grid), bool)
  certified[tested] = procedure(values[tested], failure_prob)
  outcome = Outcome(
    threshold=float(grid[certified].min(initial=1.0)),
    reason='',
    warning=power.warning(len(losses), tolerance, failure_prob, p_value),
    mean_losses=losses.mean(axis=0),
    p_values=values,
    certified=certified,
    num_examples=len(losses),
  )
  return dataclasses.replace(
    outcome, reason=_reason(outcome, grid, tolerance, failure_prob)
  )


def calibrate_dump(
  dump: str | os.PathLike | tuple[contracts.Manifest, contracts.Dump],
  consistency: str,
  tolerance: float,
  failure_prob: float,
  metric: str | None = None,
  p_value: p_values.PValue = p_values.DEFAULT,
  procedure: multiple_testing.MultipleTesting = multiple_testing.DEFAULT,
) -> contracts.CalibrationResult:
  """Calibrates from a dump of the calibration split.

  Args:
    dump: its directory, or what `reader.read_dump` gave.
    consistency: 'textual' or 'risk'.
    tolerance, failure_prob, p_value, procedure: as for `calibrate`.
    metric: a name in `text_metrics.METRICS`; by default the manifest's.

  Raises:
    ConfigError: a setting is unknown or out of range.
    DataError: the dump is damaged, or its texts were not generated at each
      threshold.
  """
  # Settings first: they are known wrong before any file is read.
  power.check_guarantee(tolerance, failure_prob)
  kind = risks.get_consistency(consistency)
  if metric is not None:
    text_metrics.get_metric(metric)
  manifest, data = _opened(dump)
  # Cached, because the risk's losses and the curve need the same scores.
  compare = functools.cache(text_metrics.get_metric(metric or manifest.metric))
  objective = kind(compare)
  ids = data.example_ids
  outcome = calibrate(
    objective.losses(data.predictions, data.references, ids),
    manifest.thresholds,
    tolerance,
    failure_prob,
    p_value,
    procedure,
    ids,
  )
  scores = risks.score(compare, data.predictions, data.references, ids)
  return contracts.CalibrationResult(
    threshold=outcome.threshold,
    tolerance=tolerance,
    failure_prob=failure_prob,
    consistency=objective.name,
    metric=metric or manifest.metric,
    p_value=repr(p_value),
    procedure=repr(procedure),
    num_examples=outcome.num_examples,
    reason=outcome.reason,
    warning=outcome.warning,
    grid=_grid_points(manifest, data, outcome, scores),
    dump=provenance(manifest),
  )


def provenance(manifest: contracts.Manifest) -> dict[str, str]:
  """What the calibrated threshold belongs to."""
  names = (
    'task',
    'split',
    'measure',
    'threshold_schedule',
    'decode_mode',
    'model_digest',
    'config_digest',
    'data_digest',
  )
  return {name: getattr(manifest, name) for name in names}


def _opened(
  dump: _DumpOrDirectory,
) -> tuple[contracts.Manifest, contracts.Dump]:
  manifest, data = dump if isinstance(dump, tuple) else reader.read_dump(dump)
  if manifest.decode_mode != contracts.GENERATED:
    raise errors.DataError(
      f'The guarantee needs texts with decode_mode {contracts.GENERATED!r}, but'
      f' this dump has {manifest.decode_mode!r}; run `calm dump` for them.'
    )
  return manifest, data


def _grid_points(
  manifest: contracts.Manifest,
  data: contracts.Dump,
  outcome: Outcome,
  scores: np.ndarray,
) -> tuple[contracts.GridPoint, ...]:
  columns = (
    manifest.thresholds,
    outcome.mean_losses.tolist(),
    outcome.p_values.tolist(),
    outcome.certified.tolist(),
    data.mean_layers().tolist(),
    scores.mean(axis=0).tolist(),
  )
  return tuple(
    contracts.GridPoint(*point) for point in zip(*columns, strict=True)
  )


def _checked_grid(thresholds: Sequence[float]) -> np.ndarray:
  grid = np.asarray(thresholds, np.float64)
  if grid.ndim != 1 or not len(grid):
    raise errors.ConfigError(
      f'Calibration needs a row of thresholds, got shape {grid.shape}.'
    )
  # Written so that NaN fails it.
  if not (np.all(np.diff(grid) < 0) and grid[0] <= 1.0 and grid[-1] >= 0.0):
    raise errors.ConfigError(
      'Thresholds must descend strictly within [0, 1], so that the order of the'
      f' tests does not depend on the data, got {grid.tolist()}.'
    )
  return grid


def _checked_losses(
  losses: np.ndarray, grid: np.ndarray, example_ids: Sequence[str] | None
) -> np.ndarray:
  losses = np.asarray(losses, np.float64)
  if losses.ndim != 2 or losses.shape[1] != len(grid) or not len(losses):
    raise errors.DataError(
      f'Losses must have shape [at least one example, {len(grid)} thresholds],'
      f' got {list(losses.shape)}.'
    )
  risks.check_unit_interval(losses, 'Losses', example_ids)
  wrong = np.argwhere((losses > 0.0) & (grid == 1.0))
  if len(wrong):
    row, column = wrong[0]
    example = f'row {row}' if example_ids is None else example_ids[row]
    raise errors.DataError(
      "At threshold 1 the output is the full model's, so every loss there must"
      f' be 0, but that of example {example} is {losses[row, column]}.'
    )
  return losses


def _reason(
  outcome: Outcome, grid: np.ndarray, tolerance: float, failure_prob: float
) -> str:
  n = outcome.num_examples
  failed = np.flatnonzero(~outcome.certified)
  if not len(failed):
    return (
      f'Every threshold down to {outcome.threshold:g}, the end of the grid, is'
      f' certified on {n} examples.'
    )
  first = failed[0]
  failure = (
    f'at {grid[first]:g} the mean loss on {n} examples is'
    f' {outcome.mean_losses[first]:.4f} and the p-value'
    f' {outcome.p_values[first]:.3g} is above the failure probability'
    f' {failure_prob:g}'
  )
  if outcome.threshold < 1.0:
    return (
      f'{outcome.threshold:g} is the last certified threshold for a tolerance'
      f' of {tolerance:g}: {failure}.'
    )
  return (
    'No threshold below 1 is certified for a tolerance of'
    f' {tolerance:g}, so the full model is kept: {failure}.'
  )
