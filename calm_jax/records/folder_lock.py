"""A folder that one process holds, until it lets go or ends."""

import contextlib
import errno
import logging
import os
import pathlib
import socket
import time
from typing import IO

import filelock

from calm_jax import errors

LOCK = 'lock'
# What file systems say that know no locks.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
_log = logging.getLogger(__name__)


class Lock:
  """A folder that is held, until `close` or the end of the process.

  Its file names the holder, who alone writes it.
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


def lock(folder: pathlib.Path, what: str) -> Lock:
  """Makes a folder and holds it until it is closed, or the process ends.

  Raises:
    OSError: the folder or the file cannot be made.
    ResourceError: another process holds it; the message names it and says for
      how long.
  """
  folder.mkdir(parents=True, exist_ok=True)
  file = open(folder / LOCK, 'a+')
  try:
    is_held = filelock.lock_descriptor(file.fileno(), blocking=False)
  except OSError as error:
    if error.errno not in _NO_LOCKS:
      file.close()
      raise
    _log.warning('%s is on a file system without locks.', folder)
    is_held = True
  if not is_held:
    with file:
      raise errors.ResourceError(
        f'Another process is writing the {what} {folder} ({_owner(file)}); wait'
        ' for it or end it, or choose another directory.'
      )
  if not _is_at(file, folder / LOCK):
    # Who held it has just let go, and moved or removed the folder.
    file.close()
    return lock(folder, what)
  return Lock(file)


def _is_at(file: IO, path: pathlib.Path) -> bool:
  try:
    return os.path.samestat(os.fstat(file.fileno()), path.stat())
  except FileNotFoundError:
    return False


def _owner(file: IO) -> str:
  """The holder of a lock, and for how long."""
  try:
    file.seek(0)
    name = file.read(200).strip() or 'unknown'
  except OSError:  # Windows lets no other process read it.
    name = 'unknown'
  minutes = max(0.0, time.time() - os.fstat(file.fileno()).st_mtime) / 60
  return f'{name}, for {minutes:.1f} minutes'
