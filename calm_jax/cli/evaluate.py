"""`calm evaluate`: a test dump and a calibrated threshold in, JSON out."""

import dataclasses
import importlib.metadata
import platform
import warnings

from calm_jax.cli import flags, loading, settings

DESCRIPTION = """Measure loss, quality, layers and speed on unseen text.

  calm evaluate --dump_dir=runs/test_dump --calibration=calibration.json \\
    --output=evaluation.json

Loss, quality, layers and operations come from the dump; the speed of the full
and of the calibrated model is measured here, in one run."""

SETTINGS = (
  settings.Setting(
    'dump_dir',
    settings.REQUIRED,
    'dump of the test split, as calm dump wrote it',
    macro='DUMP_OUTPUT_DIR',
    reads=(loading.TASK.macro,),
  ),
  settings.CALIBRATION,
  settings.Setting(
    'output', settings.REQUIRED, 'JSON file to write', macro='EVALUATION_FILE'
  ),
  loading.MODEL,
  settings.Setting(
    'calibration_dump_dir',
    None,
    'proves, by example ids, that no test example was used to calibrate',
  ),
  settings.Setting(
    'metric',
    None,
    'package.module:function, where the calibration is of a metric of your own:'
    ' it is imported only if you name it here too',
  ),
  settings.Setting(
    'batch_size',
    1,
    'texts decoded together when timed',
    macro='TIMED_BATCH_SIZE',  # BATCH_SIZE is the training's.
    minimum=1,
  ),
  settings.Setting(
    'timed_examples', 50, 'texts that are timed, a random sample', minimum=1
  ),
  settings.Setting(
    'timed_repeats', 5, 'times that each is run; the median counts', minimum=1
  ),
)


def run(args) -> None:
  """Evaluates and prints the table.

  Raises:
    CalmError: as `evaluation.evaluate`.
  """
  chosen = settings.settle(args, SETTINGS)
  loading.register_task(chosen.gin_macros)
  from calm_jax.dump import reader
  from calm_jax.records import contracts
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
    timed_repeats=chosen.timed_repeats,
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
  timed_repeats: int = 5,
  metric: str | None = None,
):
  """The `EvaluationResult` of a test dump, with its trivial baseline.

  Raises:
    DataError: the dump is of another model than the one that would be timed.
    CalmError: as `evaluation.evaluate`.
  """
  import numpy as np

  from calm_jax import evaluation
  from calm_jax.data import task_examples
  from calm_jax.evaluation import checks

  manifest, data = test
  loading.check_same_model(
    manifest.model, loaded.description(), 'The test dump'
  )
  checks.check_inputs(test, calibration, calibration_dump, metric)
  info = task_examples.find_task(manifest.task)
  generator = loaded.generator
  # Too long ones were cut when they were dumped, as the dump has said.
  with warnings.catch_warnings(action='ignore'):
    source_tokens = generator.encode(data.sources.tolist())
  result = evaluation.evaluate(
    test,
    calibration,
    _timings(
      generator, data, calibration, batch_size, timed_examples, timed_repeats
    ),
    pieces=generator.tokenizer.pieces,
    # A task of the user's is known only where its gin file was read.
    baselines=info
    and {info.baseline: [info.baseline_prediction(x) for x in data.sources]},
    calibration_dump=calibration_dump,
    source_lengths=np.count_nonzero(source_tokens, axis=1),
    own_metric=metric,
  )
  return dataclasses.replace(
    result,
    full=_with_split_scores(result.full, manifest, data),
    calibrated=_with_split_scores(result.calibrated, manifest, data),
    command=flags.command_line(),
    versions=_versions(),
  )


def _with_split_scores(row, manifest, data):
  """The row with the scores that papers print for CALM's tasks."""
  from calm_jax.data import calm_tasks, t5_metrics

  if manifest.task not in calm_tasks.TASKS:
    return row
  column = manifest.thresholds.index(row.threshold)
  texts = data.references.tolist(), data.predictions[:, column].tolist()
  scores = {}
  for name in calm_tasks.TASKS[manifest.task].metric_fns:
    scores |= getattr(t5_metrics, name)(*texts)
  return dataclasses.replace(row, split_scores=scores)


def _timings(generator, data, calibration, batch_size, examples, repeats):
  import jax
  import numpy as np

  from calm_jax.evaluation import speed

  # A dump is sorted by length; ids are hashes, so their order is a random one.
  chosen = np.argsort(data.example_ids)[:examples]
  return speed.measure(
    generator,
    data.sources[chosen].tolist(),
    threshold=calibration.threshold,
    batch_size=batch_size,
    repeats=repeats,
    run_encoder=generator.run_encoder,
    device=f'JAX on {jax.devices()[0].device_kind}',
  )


def _versions() -> dict[str, str]:
  import calm_jax

  packages = ('jax', 'jaxlib', 'numpy', 'scipy')
  return {
    'calm_jax': calm_jax.__version__,
    'python': platform.python_version(),
    **{name: importlib.metadata.version(name) for name in packages},
  }
