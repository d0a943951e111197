"""Writes a report's files: all of them, or none.

name -> bytes --> directory
"""

import contextlib
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator

from calm_jax import errors


def write_all(directory: pathlib.Path, files: dict[str, bytes]) -> None:
  """Writes all files beside their places, then renames them in this order.

  Raises:
    ResourceError: the directory cannot be written; nothing has changed.
  """
  with _explained(directory):
    is_new = not directory.exists()
    directory.mkdir(parents=True, exist_ok=True)
    staging = pathlib.Path(tempfile.mkdtemp(prefix='.report-', dir=directory))
    try:
      for name, content in files.items():
        (staging / name).write_bytes(content)
      for name in files:
        os.replace(staging / name, directory / name)
    except BaseException:
      shutil.rmtree(staging, ignore_errors=True)
      if is_new:
        shutil.rmtree(directory, ignore_errors=True)
      raise
    staging.rmdir()


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
