"""Calibrates a dump: texts in, a `CalibrationResult` with provenance out.

dump -> risks -> threshold_selection -> CalibrationResult
"""

import functools
import os

import numpy as np

from calm_jax import errors
from calm_jax.calibration import (
  choices,
  conformal_risk_control,
  guarantee,
  multiple_testing,
  outcomes,
  p_values,
  risks,
  threshold_selection,
)
from calm_jax.dump import reader
from calm_jax.metrics import text_metrics
from calm_jax.records import contracts, descriptions

DumpOrDirectory = str | os.PathLike | tuple[contracts.Manifest, contracts.Dump]


def calibrate_dump(
  dump: DumpOrDirectory,
  consistency: str,
  tolerance: float,
  failure_prob: float,
  metric: str | None = None,
  p_value: p_values.PValue | str | None = None,
  procedure: choices.Procedure | str = multiple_testing.DEFAULT,
) -> contracts.CalibrationResult:
  """Calibrates from a dump of the calibration split.

  Args:
    dump: its directory, or what `reader.read_dump` gave.
    consistency: a name as `risks.get_consistency` takes it.
    tolerance, failure_prob: as for `calibrate`.
    metric: a name in `text_metrics.METRICS`, or `package.module:function` of
      your own; by default the manifest's.
    p_value: or its name in `choices.P_VALUES`; by default the binomial one
      for losses of 0 or 1, else `betting.StarBets`.
    procedure: or its name in `choices.PROCEDURES`.

  Raises:
    ConfigError: a setting is unknown or out of range, or the p-value does not
      hold for the losses.
    DataError: the dump is damaged, its texts were not generated at each
      threshold, or they stop where the procedure may not; or nothing is
      certified and the full model itself breaks the promise.
  """
  # Settings first: they are known wrong before any file is read.
  check_settings(consistency, tolerance, failure_prob)
  procedure = choices.get_procedure(procedure)
  if p_value is not None:
    p_value = choices.get_p_value(p_value)
  if metric is not None:
    objective = objective_of(None, consistency, metric)
    p_value = choices.settle_p_value(p_value, objective.loss_range)
  manifest, data = opened(dump, procedure)
  objective = objective_of(manifest, consistency, metric)
  p_value = choices.settle_p_value(p_value, objective.loss_range)
  # A dump is sorted by length, to which a loss may be related. Ours have hashes
  # for ids, whose order is a random one, and the same for every dump of them.
  order = np.argsort(data.example_ids)
  texts = data.predictions[order], data.references[order]
  ids = data.example_ids[order]
  outcome = threshold_selection.calibrate(
    objective.losses(*texts, ids),
    manifest.thresholds,
    tolerance,
    failure_prob,
    p_value,
    procedure,
    ids,
    objective.loss_range,
  )
  if outcome.threshold is None:
    raise errors.DataError(outcome.reason)
  scores = risks.score(objective.metric, *texts, ids)
  return contracts.CalibrationResult(
    threshold=outcome.threshold,
    tolerance=tolerance,
    failure_prob=failure_prob,
    consistency=objective.name,
    metric=metric or manifest.metric,
    p_value=descriptions.describe(outcome.p_value),
    procedure=descriptions.describe(procedure),
    guarantee=_guarantee_of(procedure),
    num_examples=outcome.num_examples,
    reason=outcome.reason,
    warning=outcome.warning,
    grid=_grid_points(manifest, data, outcome, scores),
    dump=manifest.provenance,
  )


def _guarantee_of(procedure: choices.Procedure) -> str:
  if isinstance(procedure, conformal_risk_control.ConformalRiskControl):
    return contracts.IN_EXPECTATION
  return contracts.HIGH_PROBABILITY


def check_settings(
  consistency: str, tolerance: float, failure_prob: float
) -> None:
  """Raises a ConfigError for what is wrong before any file is read."""
  # Whatever the metric: how far below 0 a loss can be does not hang on it.
  kind = risks.get_consistency(consistency)(
    text_metrics.get_metric('exact_match')
  )
  guarantee.check_guarantee(tolerance, failure_prob, kind.loss_range)


def objective_of(
  manifest: contracts.Manifest | None, consistency: str, metric: str | None
) -> risks.Consistency:
  """Returns what makes losses of texts, by the manifest's metric if None.

  Raises:
    ConfigError: an unknown name.
  """
  if metric is not None:
    compare = text_metrics.get_or_import_metric(metric)
  else:
    assert manifest is not None
    compare = text_metrics.get_metric(manifest.metric)
  # Cached, because the risk's losses and the curve need the same scores.
  return risks.get_consistency(consistency)(functools.cache(compare))


def opened(
  dump: DumpOrDirectory,
  procedure: choices.Procedure = multiple_testing.DEFAULT,
) -> tuple[contracts.Manifest, contracts.Dump]:
  """Returns manifest and arrays of a dump that carries the guarantee.

  Raises:
    DataError: the dump is damaged, its texts were not generated at each
      threshold, or they stop where the procedure may not.
  """
  manifest, data = dump if isinstance(dump, tuple) else reader.read_dump(dump)
  if manifest.decode_mode != contracts.GENERATED:
    raise errors.DataError(
      f'The guarantee needs texts with decode_mode {contracts.GENERATED!r}, but'
      f' this dump has {manifest.decode_mode!r}; run `calm dump` for them.'
    )
  # A grid that the data cut short has no number of hypotheses to divide by.
  if manifest.stopped and not isinstance(
    procedure,
    multiple_testing.FixedSequence
    | conformal_risk_control.ConformalRiskControl,
  ):
    raise errors.DataError(
      f'{procedure!r} needs a grid that was fixed beforehand, but this dump'
      f' stopped at {manifest.thresholds[-1]:g} ({manifest.stopped}); use'
      ' fixed_sequence, or run `calm dump` without --stop_tolerance.'
    )
  return manifest, data


def _grid_points(
  manifest: contracts.Manifest,
  data: contracts.Dump,
  outcome: outcomes.Outcome,
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
