"""`calm dump`: a model and a split in, a dump out."""

import os
import sys
from typing import TYPE_CHECKING

from calm_jax import errors
from calm_jax.cli import flags, loading, settings

if TYPE_CHECKING:
  from calm_jax.data import task_examples
  from calm_jax.dump import runner

DESCRIPTION = """Decode a split at a grid of thresholds and keep what happened.

  calm dump --split=calibration --output_dir=runs/calibration_dump
  calm dump --split=test --output_dir=runs/test_dump
  calm dump --split=calibration,test --output_dir=runs/dump

The third command writes both, into runs/dump/calibration and runs/dump/test.
The dump is all that calm calibrate needs; it can be moved to a machine without
an accelerator. After an interruption, the same command resumes it; a complete
dump of the same settings is left as it is.

With --stop_tolerance the thresholds are decoded a few at a time, from 1 down,
until one of them fails its test: lower ones could not be certified any more."""

SETTINGS = (
  settings.Setting(
    'output_dir',
    settings.REQUIRED,
    'folder of the dump',
    macro='DUMP_OUTPUT_DIR',
  ),
  loading.MODEL,
  loading.TASK,
  settings.Setting(
    'split',
    'calibration',
    'train, validation, calibration or test; several, as calibration,test, are'
    ' dumped into folders of their names below output_dir',
  ),
  settings.Setting(
    'max_examples',
    None,
    'the first examples only, which are a random sample; all without it',
    kind=int,
    minimum=1,
  ),
  settings.Setting(
    'thresholds',
    None,
    'such as 1,0.9,0.5: descending, starting with 1, the full model; without'
    ' it, from 1 to 0, finer near 1',
    objects=True,  # As (1.0, 0.9, 0.5).
  ),
  settings.Setting(
    'examples_per_shard',
    None,
    'an interruption costs at most the work on so many; without it, 64',
    kind=int,
    minimum=1,
  ),
  settings.Setting(
    'stop_tolerance',
    None,
    'leave out thresholds below the first that is not certified for this'
    ' tolerance by fixed sequence testing; without it, all are decoded',
    kind=float,
  ),
  settings.Setting(
    'stop_failure_prob', 0.05, 'failure probability of that test'
  ),
  settings.Setting(
    'stop_consistency', 'textual', 'loss of that test: textual or risk'
  ),
  settings.Setting(
    'stop_thresholds_per_pass',
    4,
    'thresholds decoded before each test',
    minimum=1,
  ),
)


def add_flags(parser: flags.Parser) -> None:
  """Adds --overwrite and --restart."""
  flags.add_overwrite_and_restart(parser)


def run(args) -> None:
  """Writes the dump of each split, complete or not at all.

  Raises:
    CalmError: as `write_dump`.
  """
  chosen = settings.settle(args, SETTINGS)
  from calm_jax.data import task_examples

  # Before the texts are read and the model is loaded, which takes seconds.
  thresholds = parse_thresholds(chosen.thresholds)
  check_stopping(chosen)
  folders = folders_of(chosen.split, chosen.output_dir)
  for split in folders:
    task_examples.check_split(chosen.task, split)
  examples = {
    split: loading.load_examples(chosen.task, split, verbose=args.v > 0)
    for split in folders
  }
  loaded = loading.load(chosen)
  for split, folder in folders.items():
    outcome = write_dump(
      loaded,
      examples[split],
      split=split,
      max_examples=chosen.max_examples,
      thresholds=thresholds,
      output_dir=folder,
      overwrite=args.overwrite,
      restart=args.restart,
      examples_per_shard=chosen.examples_per_shard,
      stopping=stopping(chosen),
    )
    print(_summary(outcome, folder))


def _summary(outcome: 'runner.Outcome', folder: str) -> str:
  """What has come of a split, in a line or two."""
  manifest = outcome.manifest
  if not outcome.is_new:
    return (
      f'Complete already: {manifest.num_examples} examples in {folder}'
      ' (--overwrite makes it again)'
    )
  lines = [f'Written: {manifest.num_examples} examples to {folder}']
  if manifest.stopped:
    lines.insert(
      0, f'Stopped at {manifest.thresholds[-1]:g}: {manifest.stopped}'
    )
  return '\n'.join(lines)


def folders_of(split: str, output_dir: str) -> dict[str, str]:
  """Split -> folder: output_dir, or one below it for each of several.

  >>> folders_of('calibration,test', 'dump')
  {'calibration': 'dump/calibration', 'test': 'dump/test'}
  """
  names = [name.strip() for name in split.split(',')]
  if len(names) == 1:
    return {names[0]: output_dir}
  return {name: os.path.join(output_dir, name) for name in names}


def check_stopping(chosen) -> None:
  """Raises a ConfigError where the rule for stopping is none."""
  if chosen.stop_tolerance is None:
    return
  from calm_jax.calibration import guarantee, risks, threshold_selection

  wanted = chosen.stop_tolerance, chosen.stop_failure_prob
  guarantee.check_guarantee(*wanted)
  risks.get_consistency(chosen.stop_consistency)
  if chosen.max_examples is not None:
    hopeless = threshold_selection.warning_before(
      chosen.max_examples, 1, *wanted
    )
    if hopeless:
      print(f'Warning: {hopeless}', file=sys.stderr)


def stopping(chosen) -> 'runner.Stopping | None':
  """The rule for leaving out lower thresholds, if there is one.

  Fixed sequence testing decides nothing below its first failure, so the dump
  gives `calm calibrate` with the same numbers the same threshold as all
  thresholds would.
  """
  if chosen.stop_tolerance is None:
    return None
  from calm_jax import calibration
  from calm_jax.dump import runner

  guarantee = (
    chosen.stop_consistency,
    chosen.stop_tolerance,
    chosen.stop_failure_prob,
  )

  def reason(manifest, dump):
    result = calibration.calibrate_dump((manifest, dump), *guarantee)
    return '' if result.grid[-1].certified else result.reason

  return runner.Stopping(
    reason,
    f'fixed sequence testing of {guarantee}',
    chosen.stop_thresholds_per_pass,
  )


def write_dump(
  loaded: loading.LoadedModel,
  found: 'task_examples.TaskExamples',
  *,
  split: str,
  max_examples: int | None,
  thresholds: tuple[float, ...] | None,
  output_dir: str,
  overwrite: bool = False,
  restart: bool = False,
  examples_per_shard: int | None = None,
  stopping: 'runner.Stopping | None' = None,
) -> 'runner.Outcome':
  """Runs one split of a task, as `runner.run`.

  Args:
    loaded: the model.
    found: its examples.
    split: what they are of their task.
    max_examples: the first so many; all if None.
    thresholds: descending from 1; `runner.DEFAULT_THRESHOLDS` if None.
    output_dir: where the dump will be.
    overwrite, restart, stopping: as for `runner.run`.
    examples_per_shard: `runner.EXAMPLES_PER_SHARD` if None.

  Raises:
    CalmError: as `dump.runner.run`.
  """
  from calm_jax.dump import runner

  header = runner.header(
    loaded.generator,
    task=found.info.name,
    split=split,
    metric=found.info.metric,
    thresholds=thresholds or runner.DEFAULT_THRESHOLDS,
    params_digest=loaded.params_digest,
    data_digest=found.digest,
    command=flags.command_line(),
  )
  return runner.run(
    loaded.generator,
    found.examples[:max_examples],
    header,
    output_dir,
    overwrite=overwrite,
    restart=restart,
    examples_per_shard=examples_per_shard or runner.EXAMPLES_PER_SHARD,
    stopping=stopping,
  )


def parse_thresholds(given) -> tuple[float, ...] | None:
  """'1,0.9,0.5' -> (1.0, 0.9, 0.5), in this order, with a warning if needed.

  Gin's (1.0, 0.9, 0.5) is taken as well, and None for the default grid.

  Raises:
    ConfigError: not numbers, or not a grid that a dump may have.
  """
  if given is None:
    return None
  try:
    values = given.split(',') if isinstance(given, str) else given
    grid = tuple(float(x) for x in values)
  except (TypeError, ValueError):
    grid = ()
  # Written so that NaN fails it.
  if 1.0 not in grid or not all(0.0 <= value <= 1.0 for value in grid):
    raise errors.ConfigError(
      'thresholds must be numbers from 1 (the full model) down to at least 0,'
      f' joined by commas, got {given!r}.'
    )
  from calm_jax.calibration import grids

  ordered = grids.sort_thresholds(grid)
  if ordered.warning:
    print(f'Warning: {ordered.warning}', file=sys.stderr)
  return tuple(ordered.thresholds.tolist())
