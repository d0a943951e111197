"""Whether a run in MODEL_DIR may be taken up with the present configuration.

    MODEL_DIR/config.gin, as the run began --compared with--> gin.config_str()

The texts are compared, binding by binding: the saved file is not executed.
Names that have moved since then are the same (`moved_names`).
"""

import pathlib

from calm_jax import errors
from calm_jax.config import moved_names

FILE_NAME = 'config.gin'

# What does not change the parameters of a step, or only when to stop.
ALLOWED = frozenset(
  {
    'BEST_CHECKPOINT_METRIC',
    'BEST_CHECKPOINT_MODE',
    'CHECKPOINT_PERIOD',
    'CHECKPOINTS_TO_KEEP',
    'EARLY_STOPPING_PATIENCE',
    'EVAL_PERIOD',
    'EVALUATOR_NUM_EXAMPLES',
    'INITIAL_CHECKPOINT_PATH',  # Of no use once there is a checkpoint.
    'JSON_WRITE_N_RESULTS',
    'LOG_PERIOD',
    'MODEL_DIR',
    'REMAT_POLICY',
    'TFDS_DATA_DIR',
    'TRAIN_STEPS',
    'loop.train.infer_evaluation',
  }
)
ALLOWED_PREFIXES = (
  'INFER_EVAL_',
  'best.BestCheckpoint.',
  'infer_eval.InferEvaluation.',
  # Another number of devices gives the same parameters, to rounding.
  'partitioning.',
)


def bindings(text: str) -> dict[str, str]:
  """Name -> value of every binding in what `gin.config_str` gave."""
  statements: list[str] = []
  for line in text.splitlines():
    if line[:1].isspace() and statements:
      statements[-1] += ' ' + line.strip()
    elif ' = ' in line and not line.startswith('#'):
      statements.append(line)
    else:
      statements.append('')
  found = {}
  for statement in filter(None, statements):
    name, _, value = statement.partition(' = ')
    # Where the line was broken: its backslash.
    found[name] = value.removeprefix('\\').strip()
  return found


def differences(saved: str, now: str) -> list[str]:
  """A line for each binding that keeps a run from being taken up."""
  before, after = bindings(moved_names.renamed(saved)), bindings(now)
  lines = []
  for name in sorted({*before, *after}):
    if name in ALLOWED or name.startswith(ALLOWED_PREFIXES):
      continue
    was, is_now = (x.get(name, 'not set') for x in (before, after))
    if was != is_now:
      lines.append(f'{name} was {was} and is now {is_now}')
  return lines


def check_continues(model_dir: pathlib.Path, now: str) -> None:
  """Refuses to go on with a run of another configuration.

  Args:
    model_dir: of the run.
    now: the present configuration, from `gin.config_str`.

  Raises:
    ConfigError: with the difference, a line for each binding.
  """
  path = model_dir / FILE_NAME
  if not path.is_file() or not any(model_dir.glob('checkpoint_*[0-9]')):
    return
  # A damaged character is a difference.
  saved = path.read_text(encoding='utf-8', errors='replace')
  lines = differences(saved, now)
  if lines:
    raise errors.ConfigError(
      f'{model_dir} holds a run of another configuration; give that one, or'
      ' choose a new MODEL_DIR (--allow_config_changes goes on all the'
      ' same):\n  ' + '\n  '.join(lines)
    )
