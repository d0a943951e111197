"""`calm evaluate`: a test dump and a calibrated threshold in, JSON out."""

import dataclasses

from calm_jax.cli import flags, loading, settings

DESCRIPTION = """Measure loss, quality, layers and speed on unseen text.

  calm evaluate --dump_dir=runs/test_dump --calibration=calibration.json \\
    --output=evaluation.json

Loss and quality come from the dump; the speed of the full and of the
calibrated model is measured here, in one run."""

SETTINGS = (
  settings.Setting(
    'dump_dir',
    'DUMP_OUTPUT_DIR',
    str,
    settings.REQUIRED,
    'dump of the test split, as calm dump wrote it',
  ),
  settings.CALIBRATION,
  settings.Setting(
    'output',
    'EVALUATION_FILE',
    str,
    settings.REQUIRED,
    'JSON file to write',
  ),
  loading.MODEL,
  settings.Setting(
    'calibration_dump_dir',
    'CALIBRATION_DUMP_DIR',
    str,
    None,
    'proves, by example ids, that no test example was used to calibrate',
  ),
  settings.Setting(
    'metric',
    'METRIC',
    str,
    None,
    'package.module:function, where the calibration is of a metric of your own:'
    ' it is imported only if you name it here too',
  ),
  settings.Setting(
    'batch_size',
    'TIMED_BATCH_SIZE',  # BATCH_SIZE is the training's.
    int,
    1,
    'texts decoded together when timed',
    minimum=1,
  ),
  settings.Setting(
    'timed_examples',
    'TIMED_EXAMPLES',
    int,
    50,
    'texts that are timed, a random sample',
    minimum=1,
  ),
)


def add_flags(parser: flags.Parser) -> None:
  """Adds the settings."""
  settings.add_flags(parser, SETTINGS)


def run(args) -> None:
  """Evaluates and prints the table.

  Raises:
    CalmError: as `evaluation.evaluate`.
  """
  chosen = settings.settle(args, SETTINGS)
  from calm_jax import contracts
  from calm_jax.dump import reader
  from calm_jax.report import table

  calibration = contracts.read_json(
    chosen.calibration, contracts.CalibrationResult
  )
  test = reader.read_dump(chosen.dump_dir)
  calibration_dump = None
  if chosen.calibration_dump_dir is not None:
    calibration_dump = reader.read_dump(chosen.calibration_dump_dir)
  result = evaluate_dump(
    loading.load(chosen),
    test,
    calibration,
    calibration_dump=calibration_dump,
    batch_size=chosen.batch_size,
    timed_examples=chosen.timed_examples,
    metric=chosen.metric,
  )
  contracts.write_json_atomically(chosen.output, result)
  print(table.summary_table(calibration, result))
  print(f'Written: {chosen.output}')


def evaluate_dump(
  loaded: loading.LoadedModel,
  test,
  calibration,
  *,
  calibration_dump,
  batch_size: int,
  timed_examples: int,
  metric: str | None = None,
):
  """The `EvaluationResult` of a test dump, with its trivial baseline.

  Raises:
    DataError: the dump is of another model than the one that would be timed.
    CalmError: as `evaluation.evaluate`.
  """
  from calm_jax import evaluation
  from calm_jax.data import tasks

  manifest, data = test
  loading.check_same_model(
    loaded, dataclasses.asdict(manifest), 'The test dump'
  )
  info = tasks.get_task(manifest.task)
  return evaluation.evaluate(
    test,
    calibration,
    _timings(loaded, data, calibration, batch_size, timed_examples),
    pieces=lambda ids: [loaded.generator.tokenizer.piece(int(x)) for x in ids],
    baselines={
      info.baseline: [info.baseline_prediction(x) for x in data.sources]
    },
    calibration_dump=calibration_dump,
    own_metric=metric,
  )


def _timings(loaded, data, calibration, batch_size, timed_examples):
  import numpy as np

  from calm_jax.evaluation import speed

  # A dump is sorted by length; ids are hashes, so their order is a random one.
  chosen = np.argsort(data.example_ids)[:timed_examples]
  return speed.measure(
    loaded.generator,
    data.sources[chosen].tolist(),
    threshold=calibration.threshold,
    batch_size=batch_size,
  )
