"""Writes a report's files: all of them, or none.

name -> bytes --> directory

What a killed run left in the folder of unfinished files, the next one removes.
"""

import contextlib
import os
import pathlib
import shutil
from collections.abc import Iterator

from calm_jax import errors
from calm_jax.records import unfinished

_STAGING = '.report'


def write_all(directory: pathlib.Path, files: dict[str, bytes]) -> None:
  """Writes all files under temporary names, then renames them in this order.

  Raises:
    ResourceError: the directory cannot be written, or another process is
      writing a report there; nothing has changed.
  """
  with _explained(directory), _unfinished(directory) as staging:
    for name, content in files.items():
      (staging / name).write_bytes(content)
    for name in files:
      os.replace(staging / name, directory / name)


@contextlib.contextmanager
def _unfinished(directory: pathlib.Path) -> Iterator[pathlib.Path]:
  """A folder in the directory, held by this process and removed at the end."""
  is_new = not directory.exists()
  staging = directory / _STAGING
  if staging.is_symlink():  # Would lead elsewhere.
    staging.unlink()
  lock = unfinished.lock(staging, 'report')
  try:
    yield staging
  finally:
    shutil.rmtree(staging, ignore_errors=True)
    if lock is not None:
      lock.close()
    if is_new:
      # Goes if nothing came of it; never with what another process put there.
      with contextlib.suppress(OSError):
        directory.rmdir()


@contextlib.contextmanager
def _explained(directory: pathlib.Path) -> Iterator[None]:
  """Turns the operating system's errors into a ResourceError."""
  try:
    yield
  except OSError as error:
    raise errors.ResourceError(
      f'Cannot write the report to {directory}: {error.strerror or error}. Free'
      ' space or choose a directory that you may write to.'
    ) from error
