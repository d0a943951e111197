"""From the path that a user gives to the directory of one checkpoint.

MODEL_DIR/checkpoint_<step>    of training, ours or T5X's; the newest counts
any name/{state/,checkpoint}   a checkpoint itself, moved or downloaded
"""

import logging
import os
import pathlib
import re

from calm_jax import errors

STATE = 'state'  # Orbax's item with the arrays
T5X_INDEX = 'checkpoint'  # a file of T5X's native format, and of TensorFlow's

_STEP_NAME = re.compile(r'checkpoint_(\d+)')
_TENSORFLOW = re.compile(r'model\.ckpt-\d+\.(index|meta|data-.*)')


def find_checkpoint(path: str | os.PathLike) -> pathlib.Path:
  """The checkpoint directory that a user means.

  Args:
    path: a checkpoint's own directory, or a MODEL_DIR, whose newest
      `checkpoint_<step>` is taken.

  Returns:
    The directory's absolute path.

  Raises:
    DataError: there is none; lists what was found instead.
  """
  path = pathlib.Path(path).expanduser().absolute()
  if path.is_dir():
    if any(_TENSORFLOW.fullmatch(child.name) for child in path.iterdir()):
      raise mesh_tensorflow(path)
    if (path / STATE).is_dir() or (path / T5X_INDEX).is_file():
      return path
    if steps := steps_in(path):
      logging.info('Taking checkpoint_%d, the newest in %s', steps[-1], path)
      return path / f'checkpoint_{steps[-1]}'
  raise errors.DataError(
    f'A checkpoint was expected at {path}, but {_what_is_there(path)}. Give a'
    ' MODEL_DIR that holds checkpoint_<step>, or such a directory itself.'
  )


def steps_in(directory: pathlib.Path) -> list[int]:
  """The steps whose `checkpoint_<step>` is complete, ascending."""
  steps = (step_of(x.name) for x in directory.iterdir() if x.is_dir())
  return sorted(step for step in steps if step is not None)


def step_of(name: str) -> int | None:
  """The step that a directory called `checkpoint_<step>` is of, or None."""
  match = _STEP_NAME.fullmatch(name)
  return int(match[1]) if match else None


def damaged(checkpoint: pathlib.Path, detail: str) -> errors.DataError:
  """The error of a checkpoint that cannot be trusted, with the way out."""
  others = [
    step
    for step in steps_in(checkpoint.parent)
    if f'checkpoint_{step}' != checkpoint.name
  ]
  names = ', '.join(f'checkpoint_{step}' for step in others) or 'none'
  own = step_of(checkpoint.name)
  before = [step for step in others if own is not None and step < own]
  advice = (
    f' To go on from checkpoint_{before[-1]}, delete {checkpoint.name} or give'
    f' {checkpoint.parent / f"checkpoint_{before[-1]}"}.'
    if before
    else ' Copy it again.'
  )
  return errors.DataError(
    f'{checkpoint} is damaged and cannot be read ({detail}). Other checkpoints'
    f' beside it: {names}.{advice}'
  )


def mesh_tensorflow(directory: pathlib.Path) -> errors.DataError:
  """The error of a checkpoint of the T5 before T5X."""
  return errors.DataError(
    f'{directory} is a TensorFlow checkpoint of the Mesh TensorFlow T5, which'
    ' is not read. Where T5X is installed, its scripts/convert_tf_checkpoint.py'
    ' converts it; or take the same model from Hugging Face.'
  )


def _what_is_there(path: pathlib.Path) -> str:
  if path.is_file():
    return 'that is a file'
  if not path.is_dir():
    beside = path.parent
    if not beside.is_dir():
      return f'not even {beside} exists'
    steps = steps_in(beside)
    if not steps:
      return 'it does not exist'
    return f'it does not exist; {beside} holds {_names(steps)}'
  below = {
    child.name: steps_in(child)
    for child in sorted(path.iterdir())
    if child.is_dir()
  }
  models = [
    f'{name} ({_names(steps)})' for name, steps in below.items() if steps
  ]
  if models:
    return f'its folders hold them: {", ".join(models[:10])}'
  names = sorted(child.name for child in path.iterdir())
  shown = ', '.join(names[:10]) + (', ...' if len(names) > 10 else '')
  return f'it holds only: {shown}' if names else 'it is empty'


def _names(steps: list[int]) -> str:
  shown = [f'checkpoint_{step}' for step in steps[-5:]]
  return ('..., ' if len(steps) > 5 else '') + ', '.join(shown)
