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
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from typing import IO, Any, TypeVar

from calm_jax import errors
from calm_jax.records import json_records

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
      ' give the settings that it was begun with or choose another directory.'
    )


class Folder:
  """The finished parts of one job, at `path`, held by this process."""

  def __init__(
    self, path: pathlib.Path, what: str, is_part: Callable[[str], object]
  ):
    """Makes and holds the folder.

    Args:
      path: of the folder.
      what: the name of what comes of it, as 'dump'.
      is_part: whether a name is that of a finished part.

    Raises:
      ResourceError: it cannot be written, or another process holds it.
    """
    self.path = path
    self._what = what
    self._is_part = is_part
    with explained(path):
      self._lock = lock(path, what)

  def take_up(self, job: _J, *, restart: bool) -> _J:
    """Keeps the parts that are finished, or begins anew.

    Returns:
      The job with the command that began it, so that the result is what one run
      would have made.

    Raises:
      DataError: the work there is another job's (and not `restart`).
      ResourceError: the folder cannot be written.
    """
    try:
      there = None if restart else job_in(self.path, job, self._what)
      if there is None:
        self.remove()
        json_records.write_json_atomically(self.path / JOB, job)
        return job
      # A killed write leaves its temporary file, whose name has a dot first.
      self.remove(lambda name: name.startswith('.'))
      return there
    except BaseException:
      self.leave(remove=not self.has_parts())
      raise

  def has_parts(self) -> bool:
    """Whether something in it is of use to another run."""
    return any(self._is_part(path.name) for path in self.path.glob('*'))

  def remove(self, which: Callable[[str], bool] = lambda name: True) -> None:
    """Removes files by their names, but never the lock.

    Raises:
      ResourceError: the operating system refused.
    """
    with explained(self.path):
      for path in self.path.iterdir():
        if path.name != LOCK and which(path.name):
          path.unlink()

  def leave(self, *, remove: bool) -> None:
    """Lets go of the folder, which may be removed before."""
    if remove:
      shutil.rmtree(self.path, ignore_errors=True)
    if self._lock is not None:
      self._lock.close()


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
  with advised('--restart begins anew.'):
    there = json_records.read_json(path, type(job))
    job.check_continues(there, f'{folder} holds an unfinished {what}, begun')
  return there


@contextlib.contextmanager
def advised(advice: str) -> Iterator[None]:
  """Ends DataErrors with what else can be done."""
  try:
    yield
  except errors.DataError as error:
    raise errors.DataError(f'{error} {advice}') from error


class Lock:
  """A folder that is held, until `close` or the end of the process.

  Who holds it stands in the file, which nobody but the holder writes.
  """

  def __init__(self, file: IO):
    self._file = file
    # The lock counts, also where the disk is full.
    with contextlib.suppress(OSError):
      file.truncate(0)
      file.write(f'process {os.getpid()} on {socket.gethostname()}')
      file.flush()

  def close(self) -> None:
    """Lets go."""
    with contextlib.suppress(OSError):
      self._file.truncate(0)
    with contextlib.suppress(OSError):
      self._file.close()


def lock(folder: pathlib.Path, what: str) -> Lock | None:
  """Makes a folder and holds it until it is closed, or the process ends.

  Raises:
    ResourceError: another process holds it; the message names it and says for
      how long.
  """
  folder.mkdir(parents=True, exist_ok=True)
  try:
    import fcntl
  except ImportError:  # Not on Windows.
    return None
  file = open(folder / LOCK, 'a+')
  try:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError as error:
    owner = _owner(file)
    file.close()
    raise errors.ResourceError(
      f'Another process is writing the {what} {folder} ({owner}); wait for it'
      ' or end it, or choose another directory.'
    ) from error
  except OSError:
    _log.info('%s is on a file system without locks.', folder)
  if not _is_at(file, folder / LOCK):
    # Who held it has just let go, and taken the folder away.
    file.close()
    return lock(folder, what)
  return Lock(file)


def _is_at(file: IO, path: pathlib.Path) -> bool:
  try:
    return os.path.samestat(os.fstat(file.fileno()), path.stat())
  except FileNotFoundError:
    return False


def _owner(file: IO) -> str:
  """Who holds a lock, and for how long."""
  file.seek(0)
  name = file.read(200).strip() or 'unknown'
  minutes = max(0.0, time.time() - os.fstat(file.fileno()).st_mtime) / 60
  return f'{name}, for {minutes:.1f} minutes'


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
