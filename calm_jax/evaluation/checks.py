"""Refuses an evaluation that would prove nothing.

Before `evaluate` computes anything: a threshold belongs to one model and one
configuration, and its guarantee is tested on unseen examples only.
"""

from calm_jax import errors
from calm_jax.evaluation import timing
from calm_jax.metrics import text_metrics
from calm_jax.records import contracts, differences


def check_inputs(
  test: tuple[contracts.Manifest, contracts.Dump],
  calibration: contracts.CalibrationResult,
  calibration_dump: tuple[contracts.Manifest, contracts.Dump] | None,
  own_metric: str | None = None,
) -> text_metrics.Metric:
  """Everything that can be refused before anything is timed.

  Args:
    test: manifest and examples of the test dump.
    calibration: the result to be tested.
    calibration_dump: what was calibrated on, if it is given.
    own_metric: the calibration's, if the user named it.

  Returns:
    The calibration's metric.

  Raises:
    DataError: the dumps and the calibration do not belong together, or an
      example was used for the calibration.
    ConfigError: the metric is unknown or another one.
  """
  manifest, data = test
  compare = metric_of(calibration, own_metric)
  check_same_system(manifest, calibration)
  if calibration_dump is None:
    check_other_split(manifest, calibration)
  else:
    check_unseen(data, calibration, *calibration_dump)
  column_of(manifest, calibration.threshold)
  return compare


def metric_of(
  calibration: contracts.CalibrationResult, own_metric: str | None
) -> text_metrics.Metric:
  """Returns the metric; a file alone never makes us import anything.

  Raises:
    ConfigError: `own_metric` is another one, or it is needed and not given.
  """
  name = calibration.metric
  if own_metric is None and ':' in name:
    raise errors.ConfigError(
      f'The threshold was calibrated with a metric of your own, {name!r}; name'
      ' it once more (--metric) to have it imported.'
    )
  if own_metric is None:
    return text_metrics.get_metric(name)
  if own_metric != name:
    raise errors.ConfigError(
      f'The threshold was calibrated with the metric {name!r}, so it cannot be'
      f' evaluated with {own_metric!r}; calibrate with that metric first.'
    )
  return text_metrics.get_or_import_metric(own_metric)


def check_same_system(
  manifest: contracts.Manifest, calibration: contracts.CalibrationResult
) -> None:
  """Raises a DataError if something else was calibrated than is tested."""
  different = calibration.dump.differences(manifest.provenance)
  for name, (calibrated, tested) in different.items():
    raise errors.DataError(
      f'The test dump must have the same {name} as the calibration, got'
      f' {tested!r} in the test dump and {calibrated!r} in the calibration;'
      ' dump both splits with one model and one configuration.'
    )


def check_other_split(
  manifest: contracts.Manifest, calibration: contracts.CalibrationResult
) -> None:
  """Raises a DataError if the test split is the one that was calibrated on."""
  if manifest.split == calibration.dump.split:
    raise errors.DataError(
      f'The calibration and the test dump are both of the split'
      f' {manifest.split!r}; evaluate on another split, or give the dump that'
      ' was calibrated on to show that its examples are others.'
    )


def check_unseen(
  data: contracts.Dump,
  calibration: contracts.CalibrationResult,
  calibration_manifest: contracts.Manifest,
  calibration_data: contracts.Dump,
) -> None:
  """Raises a DataError if a test example was calibrated on.

  Args:
    data: the test dump.
    calibration: the result to be tested.
    calibration_manifest: of the dump that is said to be the calibration's.
    calibration_data: its examples.

  Raises:
    DataError: a shared example, or the calibration is of another dump.
  """
  different = differences.differences(
    calibration.dump, calibration_manifest.provenance
  )
  if calibration_data.num_examples != calibration.num_examples:
    counts = calibration.num_examples, calibration_data.num_examples
    different['num_examples'] = counts
  for name, (required, got) in different.items():
    raise errors.DataError(
      'The calibration dump must be the one that was calibrated on, with'
      f' {name} {required!r}, got one with {got!r}.'
    )
  ids = data.example_ids.tolist()
  seen = set(calibration_data.example_ids.tolist())
  if shared := [name for name in ids if name in seen]:
    raise errors.DataError(
      f'{len(shared)} of the {len(ids)} test examples were used for the'
      f' calibration, as {shared[:3]}; a guarantee is tested on unseen'
      ' examples only, so dump a split that shares none.'
    )


def check_timings(
  timings: timing.Timings, calibration: contracts.CalibrationResult
) -> None:
  """Raises a DataError if another threshold was timed."""
  if timings.calibrated.threshold != calibration.threshold:
    raise errors.DataError(
      f'The timings must be of the calibrated threshold'
      f' {calibration.threshold}, got {timings.calibrated.threshold}.'
    )


def column_of(manifest: contracts.Manifest, threshold: float) -> int:
  """Returns where the threshold stands in the dump's grid."""
  if threshold in manifest.thresholds:
    return manifest.thresholds.index(threshold)
  raise errors.DataError(
    f'The test dump must include the calibrated threshold {threshold}, but it'
    f' has {list(manifest.thresholds)}; dump the test split at 1.0 and'
    f' {threshold}.'
  )
