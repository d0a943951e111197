"""Whether a MODEL_DIR can be read and written."""

import os
import pathlib
import re
import shutil
import tempfile
from collections.abc import Iterator

from calm_jax.doctor import findings

_TOPIC = 'MODEL_DIR'
_CHECKPOINT = re.compile(r'checkpoint_(\d+)')


def look(model_dir: str) -> Iterator[findings.Finding]:
  """The folder itself, or where it would be made."""
  if '://' in model_dir:
    yield findings.Finding(
      _TOPIC,
      findings.NOTE,
      f'{model_dir} is no local folder, and was not tried',
    )
    return
  path = pathlib.Path(model_dir).expanduser().absolute()
  if path.exists() and not path.is_dir():
    yield findings.Finding(
      _TOPIC, findings.WRONG, f'{path} is a file', 'Name a folder.'
    )
    return
  there = path
  while not there.is_dir():
    there = there.parent
  if problem := _problem(there):
    yield findings.Finding(
      _TOPIC,
      findings.WRONG,
      problem,
      'Choose a folder of your own, or free space.',
    )
    return
  free = shutil.disk_usage(there).free / 2**30
  yield findings.Finding(
    _TOPIC, findings.OK, f'{_state(path)}; {free:.1f} GiB free'
  )


def _problem(folder: pathlib.Path) -> str:
  try:
    os.listdir(folder)
  except OSError as error:
    return f'{folder} cannot be read: {error.strerror}'
  try:
    with tempfile.TemporaryFile(dir=folder) as probe:
      probe.write(b'probe')
      probe.flush()
  except OSError as error:
    return f'{folder} cannot be written: {error.strerror}'
  return ''


def _state(path: pathlib.Path) -> str:
  if not path.is_dir():
    return f'{path} is not there yet, and can be made'
  steps = sorted(
    int(found[1])
    for name in os.listdir(path)
    if (found := _CHECKPOINT.fullmatch(name))
  )
  if not steps:
    return f'{path} is readable and writable, without checkpoints'
  return (
    f'{path} is readable and writable, with {len(steps)} checkpoints, the'
    f' newest of step {steps[-1]}'
  )
