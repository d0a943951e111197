"""Several calibrations of dumps under one guarantee, as `several` has them.

dumps -> losses and layers of all candidates -> one CalibrationResult
one dump -> tolerances or groups -> a CalibrationResult for each
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from calm_jax import errors
from calm_jax.calibration import from_dump, guarantee, p_values, risks, several
from calm_jax.records import contracts, descriptions, dump_arrays


def choose_dump(
  dumps: Sequence[from_dump.DumpOrDirectory],
  consistency: str,
  tolerance: float,
  failure_prob: float,
  metric: str | None = None,
  p_value: p_values.PValue | str | None = None,
  testing: several.ParetoTesting = several.ParetoTesting(),  # noqa: B008
) -> contracts.CalibrationResult:
  """Chooses a dump and a threshold together: the fewest layers certified.

  Args:
    dumps: of the same texts, such as one for each measure.
    consistency, tolerance, failure_prob, metric, p_value: as for
      `calibrate_dump`.
    testing: orders the candidates and certifies them.

  Raises:
    ConfigError: as `calibrate_dump`.
    DataError: as `calibrate_dump`; or the dumps hold different texts.
  """
  from_dump.check_settings(consistency, tolerance, failure_prob)
  opened = [from_dump.opened(dump) for dump in dumps]
  ids = np.sort(opened[0][1].example_ids)
  parts = []
  for manifest, data in opened:
    order = np.argsort(data.example_ids)
    if not np.array_equal(data.example_ids[order], ids):
      raise errors.DataError(
        'Several dumps must hold the same texts, or their losses cannot be'
        f' compared, but those of {opened[0][0].model.measure.name} and'
        f' {manifest.model.measure.name} differ; dump the same split for each.'
      )
    objective = from_dump.objective_of(manifest, consistency, metric)
    texts = data.predictions[order], data.references[order], ids
    layers, tokens = dump_arrays.layers_and_tokens(data.num_layers_used[order])
    parts.append(
      _Part(
        manifest,
        data,
        objective,
        objective.losses(*texts),
        risks.score(objective.metric, *texts),
        layers / np.maximum(tokens, 1),
      )
    )
  # The full model is no candidate: it is there anyway.
  where = [
    (number, column)
    for number, part in enumerate(parts)
    for column in range(1, part.losses.shape[1])
  ]
  if not where:
    raise errors.DataError('The dumps have no threshold below 1 to choose.')
  chosen = testing(
    np.stack([parts[k].losses[:, g] for k, g in where], axis=1),
    np.stack([parts[k].layers[:, g] for k, g in where], axis=1),
    tolerance,
    failure_prob,
    p_value,
    parts[0].objective.loss_range,
  )
  return _result(parts, where, chosen, tolerance, failure_prob, metric, testing)


def calibrate_dump_curve(
  dump: from_dump.DumpOrDirectory,
  consistency: str,
  tolerances: Sequence[float],
  failure_prob: float,
  **settings: Any,
) -> dict[str, contracts.CalibrationResult]:
  """Calibrates for several tolerances at once; with one probability all hold.

  Args:
    dump, consistency, failure_prob: as for `calibrate_dump`.
    tolerances: each once.
    **settings: further ones of `calibrate_dump`.

  Returns:
    A result for each tolerance, as it is written.

  Raises:
    CalmError: as `several.calibrate_curve` and `calibrate_dump`.
  """
  several.check_curve(tolerances, failure_prob)
  return {
    f'{tolerance:g}': _shared(
      from_dump.calibrate_dump(
        dump,
        consistency,
        tolerance,
        failure_prob / len(tolerances),
        **settings,
      ),
      several.shared_reason(
        f'one of {len(tolerances)} tolerances', failure_prob
      ),
    )
    for tolerance in tolerances
  }


def calibrate_dump_groups(
  dump: from_dump.DumpOrDirectory,
  group_of: Mapping[str, str],
  consistency: str,
  tolerance: float,
  failure_prob: float,
  **settings: Any,
) -> dict[str, contracts.CalibrationResult]:
  """Calibrates each group of texts; with one probability all promises hold.

  Args:
    dump, consistency, tolerance, failure_prob: as for `calibrate_dump`.
    group_of: example id -> group, a function of the input alone.
    **settings: further ones of `calibrate_dump`.

  Raises:
    CalmError: an example has no group; and as `calibrate_dump`.
  """
  guarantee.check_failure_prob(failure_prob)
  manifest, data = from_dump.opened(dump)
  ids = data.example_ids.tolist()
  if missing := [name for name in ids if name not in group_of]:
    raise errors.DataError(
      f'Every example needs a group, but {len(missing)} of {len(ids)} have'
      f' none, as {missing[:3]}.'
    )
  labels = np.array([str(group_of[name]) for name in ids])
  names = np.unique(labels).tolist()
  found = {}
  for name in names:
    rows = np.flatnonzero(labels == name)
    part = type(data)(**{k: array[rows] for k, array in data.arrays().items()})
    result = from_dump.calibrate_dump(
      (manifest, part),
      consistency,
      tolerance,
      failure_prob / len(names),
      **settings,
    )
    which = f'texts of the group {name!r}, one of {len(names)}'
    found[name] = _shared(result, several.shared_reason(which, failure_prob))
  return found


@dataclasses.dataclass(frozen=True, eq=False)
class _Part:
  """One dump, its arrays in the order of the ids."""

  manifest: contracts.Manifest
  data: contracts.Dump
  objective: risks.Consistency
  losses: np.ndarray
  scores: np.ndarray
  layers: np.ndarray


def _result(
  parts, where, chosen, tolerance, failure_prob, metric, testing
) -> contracts.CalibrationResult:
  number, column = (
    (0, 0) if chosen.candidate is None else where[chosen.candidate]
  )
  part = parts[number]
  num_thresholds = len(part.manifest.thresholds)
  values, certified = [0.0] + [1.0] * (num_thresholds - 1), {0}
  for candidate, value, passed in zip(
    chosen.tested, chosen.p_values, chosen.certified, strict=True
  ):
    dump, threshold = where[candidate]
    if dump == number:
      values[threshold] = float(value)
      certified |= {threshold} if passed else set()
  points = zip(
    part.manifest.thresholds,
    part.losses.mean(axis=0).tolist(),
    values,
    [g in certified for g in range(num_thresholds)],
    part.data.mean_layers().tolist(),
    part.scores.mean(axis=0).tolist(),
    strict=True,
  )
  return contracts.CalibrationResult(
    threshold=part.manifest.thresholds[column],
    tolerance=tolerance,
    failure_prob=failure_prob,
    consistency=part.objective.name,
    metric=metric or part.manifest.metric,
    p_value=descriptions.describe(chosen.p_value),
    procedure=descriptions.describe(testing),
    num_examples=chosen.num_certifying,
    reason=_reason(parts, where, chosen, part, column, tolerance),
    grid=tuple(contracts.GridPoint(*point) for point in points),
    dump=part.manifest.provenance,
  )


def _reason(parts, where, chosen, part, column, tolerance) -> str:
  among = (
    f'among {len(where)} thresholds of {len(parts)} dumps, put into order on'
    f' {chosen.num_ordering} examples and certified on {chosen.num_certifying}'
    ' others'
  )
  if chosen.candidate is None:
    return (
      f'No threshold below 1 is certified for a tolerance of {tolerance:g}'
      f' {among}, so the full model is kept.'
    )
  return (
    f'{part.manifest.thresholds[column]:g} of'
    f' {part.manifest.model.measure.name} uses the fewest layers of what is'
    f' certified for a tolerance of {tolerance:g} {among}. The choice of the'
    ' dump is part of the promise.'
  )


def _shared(
  result: contracts.CalibrationResult, more: str
) -> contracts.CalibrationResult:
  return dataclasses.replace(result, reason=f'{result.reason} {more}')
