"""`calm demo`: every stage on the shipped model and real text."""

import pathlib
import time

from calm_jax.cli import (
  calibrate,
  dump,
  evaluate,
  loading,
  settings,
)

DESCRIPTION = """Run the whole line on the shipped model, in minutes.

  calm demo

Decodes calibration text at a grid of thresholds, calibrates one, tests it on
other text for loss, quality, layers and speed, and writes a report."""

SETTINGS = (
  settings.Setting(
    'output_dir', 'runs/demo', 'folder of all outputs', macro='DEMO_OUTPUT_DIR'
  ),
  loading.MODEL,
  loading.TASK,
  settings.Setting(
    'calibration_examples',
    1000,
    'texts that the threshold is calibrated on',
    minimum=1,
  ),
  settings.Setting(
    'test_examples', 300, 'texts that it is tested on', minimum=1
  ),
  settings.Setting('timed_examples', 50, 'texts that are timed', minimum=1),
  settings.Setting('tolerance', 0.1, 'greatest expected loss, in (0, 1)'),
  settings.Setting('failure_prob', 0.05, 'in (0, 1)'),
)


def run(args) -> None:
  """Runs all stages; what they write is kept in `output_dir`.

  Raises:
    CalmError: as the stages.
  """
  chosen = settings.settle(args, SETTINGS)
  from calm_jax import calibration
  from calm_jax.records import contracts
  from calm_jax.report import html, table

  _check_guarantee(chosen)
  folder = pathlib.Path(chosen.output_dir).expanduser()
  steps = _Steps(5)
  steps.start('the shipped model' if chosen.model is None else chosen.model)
  loaded = loading.load(chosen)
  steps.start(
    f'decode {chosen.calibration_examples} calibration texts at a grid of'
    ' thresholds'
  )
  calibration_dump = _dump(
    loaded, chosen.task, 'calibration', chosen.calibration_examples, folder
  )
  steps.start('calibrate')
  calibrated = calibration.calibrate_dump(
    calibration_dump, 'textual', chosen.tolerance, chosen.failure_prob
  )
  contracts.write_json_atomically(folder / 'calibration.json', calibrated)
  print(calibrate.summary(calibrated))
  steps.start(f'test on {chosen.test_examples} other texts, and time both')
  test_dump = _dump(loaded, chosen.task, 'test', chosen.test_examples, folder)
  result = evaluate.evaluate_dump(
    loaded,
    test_dump,
    calibrated,
    calibration_dump=calibration_dump,
    batch_size=1,
    timed_examples=chosen.timed_examples,
  )
  contracts.write_json_atomically(folder / 'evaluation.json', result)
  steps.start('report')
  page = html.write_report(
    calibrated, result, folder / 'report', (calibration_dump[0], test_dump[0])
  )
  print(f'\n{table.summary_table(calibrated, result)}\n')
  print(f'Report: {pathlib.Path(page).absolute()}')


def _check_guarantee(chosen) -> None:
  """Refuses what no calibration can promise; warns of what too few texts can.

  Raises:
    ConfigError: a number out of range.
  """
  from calm_jax.calibration import guarantee, threshold_selection

  wanted = chosen.tolerance, chosen.failure_prob
  guarantee.check_guarantee(*wanted)
  hopeless = threshold_selection.warning_before(
    chosen.calibration_examples, 1, *wanted
  )
  if hopeless:
    print(f'Warning: {hopeless}')


def _dump(loaded, task: str, split: str, count: int, folder: pathlib.Path):
  """Decodes the first texts of a split; the dump as `reader.read_dump`."""
  from calm_jax.dump import reader

  path = folder / f'{split}_dump'
  dump.write_dump(
    loaded,
    loading.load_examples(task, split),
    split=split,
    max_examples=count,
    thresholds=None,
    output_dir=str(path),
    overwrite=True,
    restart=True,  # Another demo's settings are no reason to refuse.
  )
  return reader.read_dump(path)


class _Steps:
  """Announces each step with its number and the time so far."""

  def __init__(self, count: int):
    self._count, self._number = count, 0
    self._started = time.monotonic()

  def start(self, text: str) -> None:
    self._number += 1
    seconds = time.monotonic() - self._started
    print(f'[{self._number}/{self._count}, {seconds:.0f} s] {text}', flush=True)
