"""`calm evaluate`: a test dump and a calibrated threshold in, JSON out."""

from calm_jax import errors
from calm_jax.cli import flags, loading, settings

DESCRIPTION = """Measure loss, quality, layers and speed on unseen text.

  calm evaluate --dump_dir=runs/test_dump --calibration=calibration.json \\
    --output=evaluation.json

Loss and quality come from the dump; the speed of the full and of the
calibrated model is measured here, in one run. Where there is no accelerator,
give the timings that were measured elsewhere: --timings=timings.json."""

SETTINGS = (
  settings.Setting(
    'dump_dir',
    'DUMP_OUTPUT_DIR',
    str,
    settings.REQUIRED,
    'dump of the test split, as calm dump wrote it',
  ),
  settings.Setting(
    'calibration',
    'CALIBRATION_FILE',
    str,
    settings.REQUIRED,
    'JSON file of calm calibrate',
  ),
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
    'batch_size', 'BATCH_SIZE', int, 1, 'texts decoded together when timed'
  ),
  settings.Setting(
    'timed_examples', 'TIMED_EXAMPLES', int, 50, 'texts that are timed'
  ),
  settings.Setting(
    'timings',
    'TIMINGS_FILE',
    str,
    None,
    'JSON file with timings made elsewhere; nothing is timed then',
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
  for name in ('batch_size', 'timed_examples'):
    if getattr(chosen, name) < 1:
      raise errors.ConfigError(
        f'{name} must be at least 1, got {getattr(chosen, name)}.'
      )
  from calm_jax import contracts
  from calm_jax.dump import reader
  from calm_jax.report import table

  calibration = contracts.read_json(
    chosen.calibration, contracts.CalibrationResult
  )
  test = reader.read_dump(chosen.dump_dir)
  calibration_ids = None
  if chosen.calibration_dump_dir is not None:
    _, data = reader.read_dump(chosen.calibration_dump_dir)
    calibration_ids = data.example_ids
  result = evaluate_dump(
    loading.load(chosen),
    test,
    calibration,
    calibration_ids=calibration_ids,
    batch_size=chosen.batch_size,
    timed_examples=chosen.timed_examples,
    timings_file=chosen.timings,
  )
  contracts.write_json_atomically(chosen.output, result)
  print(table.summary_table(calibration, result))
  print(f'Written: {chosen.output}')


def evaluate_dump(
  loaded: loading.LoadedModel,
  test,
  calibration,
  *,
  calibration_ids,
  batch_size: int,
  timed_examples: int,
  timings_file: str | None = None,
):
  """The `EvaluationResult` of a test dump, with its trivial baseline.

  Raises:
    CalmError: as `evaluation.evaluate`.
  """
  from calm_jax import evaluation
  from calm_jax.data import tasks

  manifest, data = test
  info = tasks.get_task(manifest.task)
  return evaluation.evaluate(
    test,
    calibration,
    _timings(loaded, data, calibration, batch_size, timed_examples)
    if timings_file is None
    else _read_timings(timings_file),
    pieces=lambda ids: [loaded.generator.tokenizer.piece(int(x)) for x in ids],
    baselines={
      info.baseline: [info.baseline_prediction(x) for x in data.sources]
    },
    calibration_ids=calibration_ids,
  )


def _timings(loaded, data, calibration, batch_size, timed_examples):
  from calm_jax.evaluation import speed

  return speed.measure(
    loaded.generator,
    data.sources[:timed_examples].tolist(),
    threshold=calibration.threshold,
    batch_size=batch_size,
  )


def _read_timings(path: str):
  from calm_jax import contracts, evaluation

  return contracts.read_json(path, evaluation.Timings)
