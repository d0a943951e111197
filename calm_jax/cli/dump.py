"""`calm dump`: a model and a split in, a dump out."""

import shlex
import sys

from calm_jax import errors
from calm_jax.cli import flags, loading, settings

DESCRIPTION = """Decode a split at a grid of thresholds and keep what happened.

  calm dump --split=calibration --output_dir=runs/calibration_dump
  calm dump --split=test --output_dir=runs/test_dump

The dump is all that calm calibrate needs; it can be moved to a machine without
an accelerator."""

SETTINGS = (
  settings.Setting(
    'output_dir',
    'DUMP_OUTPUT_DIR',
    str,
    settings.REQUIRED,
    'folder of the dump',
  ),
  loading.MODEL,
  loading.TASK,
  settings.Setting(
    'split',
    'SPLIT',
    str,
    'calibration',
    'train, validation, calibration or test',
  ),
  settings.Setting(
    'max_examples',
    'MAX_EXAMPLES',
    int,
    None,
    'the first examples only, which are a random sample; all without it',
    minimum=1,
  ),
  settings.Setting(
    'thresholds',
    'THRESHOLDS',
    str,
    None,
    'such as 1,0.9,0.5: descending, starting with 1, the full model; without'
    ' it, from 1 to 0, finer near 1',
  ),
)


def add_flags(parser: flags.Parser) -> None:
  """Adds the settings, and --overwrite."""
  settings.add_flags(parser, SETTINGS)
  parser.add_argument(
    '--overwrite', action='store_true', help='replace a dump that is there'
  )


def run(args) -> None:
  """Writes the dump, complete or not at all.

  Raises:
    CalmError: as `dump.runner.run`.
  """
  chosen = settings.settle(args, SETTINGS)
  # Before the model is loaded, which takes seconds.
  thresholds = parse_thresholds(chosen.thresholds)
  manifest = write_dump(
    loading.load(chosen),
    task=chosen.task,
    split=chosen.split,
    max_examples=chosen.max_examples,
    thresholds=thresholds,
    output_dir=chosen.output_dir,
    overwrite=args.overwrite,
  )
  print(f'Written: {manifest.num_examples} examples to {chosen.output_dir}')


def write_dump(
  loaded: loading.LoadedModel,
  *,
  task: str,
  split: str,
  max_examples: int | None,
  thresholds: tuple[float, ...] | None,
  output_dir: str,
  overwrite: bool = False,
):
  """Runs one split of a task and returns the dump's manifest.

  Raises:
    CalmError: as `dump.runner.run`.
  """
  from calm_jax.data import corpus, tasks
  from calm_jax.dump import runner

  info = tasks.get_task(task)
  examples = corpus.load_corpus(task, split)[:max_examples]
  data_digest = corpus.read_manifest(corpus.ensure_corpus())['digest']
  header = runner.header(
    loaded.generator,
    task=task,
    split=split,
    metric=info.metric,
    thresholds=thresholds or runner.DEFAULT_THRESHOLDS,
    model_digest=loaded.digest,
    data_digest=data_digest,
    command=shlex.join(['calm', *sys.argv[1:]]),
  )
  return runner.run(
    loaded.generator, examples, header, output_dir, overwrite=overwrite
  )


def parse_thresholds(text: str | None) -> tuple[float, ...] | None:
  """'1,0.9,0.5' -> (1.0, 0.9, 0.5).

  Raises:
    ConfigError: not numbers, or not a grid that a dump may have.
  """
  if text is None:
    return None
  try:
    grid = tuple(float(x) for x in text.split(','))
  except ValueError:
    grid = ()
  descends = all(high > low for high, low in zip(grid, grid[1:], strict=False))
  if not grid or grid[0] != 1.0 or not descends or not grid[-1] >= 0.0:
    raise errors.ConfigError(
      'thresholds must be numbers from 1 (the full model) strictly down to at'
      f' least 0, joined by commas, got {text!r}.'
    )
  return grid
