"""A folder of unfinished work, which a killed run leaves to the next.

    folder/  job.json, lock, finished parts ...

Every part is written under another name and then renamed, so what is there is
finished; the job says of which run, and a run with other settings is refused.
Below `dump.partial` and `inference.results`. Standard library only.
"""

import contextlib
import logging
import os
import pathlib
from collections.abc import Iterator
from typing import IO, Any, TypeVar

from calm_jax import errors, json_records

JOB, LOCK = 'job.json', 'lock'
# Longer values say nothing to a reader; digests are among them.
_LONGEST_SHOWN = 40
_log = logging.getLogger(__name__)

_J = TypeVar('_J', bound='Job')


class Job(json_records.Record):
  """Mixin for records of what decides every byte of a result.

  They have a field `command`, which may be spelled in another way.
  """

  def settings(self) -> dict[str, Any]:
    """Everything that counts, by name."""
    fields = self.to_json()
    fields.pop('command')
    return fields

  def check_continues(self, there: 'Job', what: str) -> None:
    """Refuses to go on with work of other settings.

    Args:
      there: the job of what is there.
      what: where and what that is, as a sentence begins.

    Raises:
      DataError: it differs in more than the command.
    """
    now, then = self.settings(), there.settings()
    different = [name for name in now if now[name] != then[name]]
    if not different:
      return
    shown = [
      f' {name} was {then[name]!r} and is now {now[name]!r};'
      for name in different
      if len(repr(then[name]) + repr(now[name])) <= 2 * _LONGEST_SHOWN
    ]
    raise errors.DataError(
      f'{what} with other settings ({", ".join(different)});{"".join(shown)}'
      ' give the settings that it was begun with, choose another directory, or'
      ' ask to restart it (--restart).'
    )


def job_in(folder: pathlib.Path, job: _J, what: str) -> _J | None:
  """The job of the unfinished work in a folder; None if there is none.

  Args:
    folder: that `lock` holds.
    job: what is to be done.
    what: its name, as 'dump'.

  Raises:
    DataError: the work there is another job's.
  """
  path = folder / JOB
  if not path.is_file():
    return None
  there = json_records.read_json(path, type(job))
  job.check_continues(there, f'{folder} holds an unfinished {what}')
  return there


def lock(folder: pathlib.Path, what: str) -> IO | None:
  """Holds the folder until the file is closed, by whatever end of the process.

  Raises:
    ResourceError: another process holds it.
  """
  try:
    import fcntl
  except ImportError:  # Not on Windows.
    return None
  file = open(folder / LOCK, 'a')
  try:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError as error:
    file.close()
    raise errors.ResourceError(
      f'Another process is writing the {what} {folder}; wait for it or end it,'
      ' or choose another directory.'
    ) from error
  except OSError:
    _log.info('%s is on a file system without locks.', folder)
  return file


@contextlib.contextmanager
def explained(path: str | os.PathLike) -> Iterator[None]:
  """Turns the operating system's errors into a ResourceError."""
  try:
    yield
  except OSError as error:
    raise errors.ResourceError(
      f'Cannot write {path}: {error.strerror or error}. Free space or choose'
      ' a directory that you may write to.'
    ) from error
