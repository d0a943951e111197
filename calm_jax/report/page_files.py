"""Writes a report's files: all of them, or none.

name -> bytes --> directory

What a killed run left in the folder of unfinished files, the next one removes.
"""

import contextlib
import os
import pathlib
import shutil
from collections.abc import Iterator

from calm_jax.records import folder_lock, json_records

_STAGING = '.report'


def write_all(directory: pathlib.Path, files: dict[str, bytes]) -> None:
  """Writes all files under temporary names, then renames them in this order.

  Raises:
    ResourceError: the directory cannot be written, or another process is
      writing a report there; nothing has changed.
  """
  with json_records.explained(directory), _unfinished(directory) as staging:
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
  lock = folder_lock.lock(staging, 'report')
  try:
    yield staging
  finally:
    shutil.rmtree(staging, ignore_errors=True)
    lock.close()
    if is_new:
      # Goes if nothing came of it; never with what another process put there.
      with contextlib.suppress(OSError):
        directory.rmdir()
