"""Whether TFDS has the data of CALM's three tasks."""

import contextlib
import dataclasses
import logging
import os
import pathlib
from collections.abc import Iterator

from calm_jax import errors
from calm_jax.doctor import findings

_VARIABLE = 'TFDS_DATA_DIR'


def look(tfds_data_dir: str | None) -> Iterator[findings.Finding]:
  """One finding for each task; imports TensorFlow.

  Args:
    tfds_data_dir: where TFDS keeps its data; $TFDS_DATA_DIR, or its default
      folder, if None.
  """
  given = tfds_data_dir or os.environ.get(_VARIABLE)
  if given and '://' not in given:
    if not pathlib.Path(given).expanduser().is_dir():
      yield findings.Finding(
        _VARIABLE,
        findings.WRONG,
        f'{given} is no folder',
        'Name the folder that tfds build made, or leave it out.',
      )
      return
  from calm_jax.data import calm_tasks

  for name, task in calm_tasks.TASKS.items():
    try:
      with _quiet_tfds():
        dataclasses.replace(task, tfds_data_dir=tfds_data_dir).check_data()
    except errors.DataError as error:
      # Who trains on other texts does not need them.
      said, _, fix = str(error).partition(' Run: ')
      yield findings.Finding(name, findings.NOTE, said, fix)
    else:
      yield findings.Finding(name, findings.OK, f'{task.tfds_name} is prepared')


@contextlib.contextmanager
def _quiet_tfds() -> Iterator[None]:
  """Drops the warnings that TFDS gives where a data set is missing."""
  logger = logging.getLogger('absl')
  before = logger.level
  logger.setLevel(logging.ERROR)
  try:
    yield
  finally:
    logger.setLevel(before)
