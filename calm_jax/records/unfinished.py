"""A folder of unfinished work, which a killed run leaves to the next.

    folder/  job.json, lock, finished parts ...

Every part is written under another name and then renamed, so what is there is
finished; the job says of which run, and a run with other settings is refused.
A dump and an inference run differ in their parts and in how they end.
"""

import contextlib
import logging
import os
import pathlib
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, Self, TypeVar

from tqdm import auto as tqdm

from calm_jax import errors
from calm_jax.records import differences, folder_lock, json_records

JOB = 'job.json'
# Longer values say nothing to a reader; digests are among them.
_LONGEST_SHOWN = 40
_log = logging.getLogger(__name__)

_J = TypeVar('_J', bound='Job')
_Part = TypeVar('_Part')


class Job(json_records.Record):
  """Mixin for records of what decides every byte of a result.

  They, or a record in them, have a field `command`, which decides none.
  """

  def check_continues(self, there: 'Job', what: str) -> None:
    """Refuses to go on with work of other settings.

    Args:
      there: the job of what is there.
      what: where and what that is, as a sentence begins.

    Raises:
      DataError: it differs in more than the command.
    """
    different = differences.differences(there, self)
    different.pop('command', None)
    if not different:
      return
    shown = [
      f' {name} was {then!r} and is now {now!r};'
      for name, (then, now) in different.items()
      if len(repr(then) + repr(now)) <= 2 * _LONGEST_SHOWN
    ]
    raise errors.DataError(
      f'{what} with other settings ({", ".join(different)});{"".join(shown)}'
      ' give the settings that it was begun with or choose another directory.'
    )


class Folder(Generic[_J]):
  """The finished parts of one job, held by this process.

  Leaving the block keeps finished parts for the next run of the same job; a
  folder without any is removed.

  Attributes:
    path: of the folder.
    job: with the command that began it, so that the result is what one run
      would have made.
    is_complete: set when the result has its place: the folder is no longer of
      this job.
  """

  def __init__(
    self,
    path: pathlib.Path,
    job: _J,
    what: str,
    part_names: re.Pattern[str],
    *,
    restart: bool,
  ):
    """Makes and holds the folder, and takes up what is there.

    Args:
      path: of the folder.
      job: what is to be done.
      what: the name of what comes of it, as 'dump'.
      part_names: matches the names of finished parts.
      restart: whether parts that are there are thrown away.

    Raises:
      DataError: the work there is another job's (and not `restart`).
      ResourceError: it cannot be written, or another process holds it.
    """
    self.path = path
    self.is_complete = False
    self._part_names = part_names
    with json_records.explained(path):
      self._lock = folder_lock.lock(path, what)
      try:
        there = None if restart else job_in(path, job, what)
        # A killed write leaves its temporary file, whose name has a dot first.
        self._remove(lambda name: name.startswith('.') or there is None)
        if there is None:
          json_records.write_json_atomically(path / JOB, job)
      except BaseException:
        self._leave()
        raise
    self.job = there or job

  def __enter__(self) -> Self:
    return self

  def __exit__(self, exception_type, exception, traceback) -> None:
    self._leave()

  def part(
    self, name: str, read: Callable[[pathlib.Path], _Part]
  ) -> _Part | None:
    """What `read` makes of a finished part; None if missing or damaged."""
    path = self.path / name
    if not path.is_file():
      return None
    try:
      return read(path)
    except (errors.CalmError, OSError) as error:
      _log.warning('A part is made again: %s', error)
      return None

  def discard(self) -> None:
    """Removes the folder, which has no further use."""
    self._let_go_on_windows()
    shutil.rmtree(self.path, ignore_errors=True)
    self.is_complete = True

  def become(self, target: pathlib.Path) -> None:
    """Gives the folder the name of the complete result.

    Raises:
      OSError: the operating system refused.
    """
    self._let_go_on_windows()
    self.path.rename(target)
    self.is_complete = True

  def _remove(self, which: Callable[[str], bool]) -> None:
    for path in self.path.iterdir():
      if path.name != folder_lock.LOCK and which(path.name):
        path.unlink()

  def _leave(self) -> None:
    names = [path.name for path in self.path.glob('*')]
    if not self.is_complete and not any(map(self._part_names.fullmatch, names)):
      self.discard()
    self._lock.close()

  def _let_go_on_windows(self) -> None:
    """It neither renames nor removes a folder with an open file."""
    if os.name == 'nt':
      self._lock.close()


def job_in(folder: pathlib.Path, job: _J, what: str) -> _J | None:
  """The job of the unfinished work in a folder; None if there is none.

  Args:
    folder: that this process holds.
    job: what is to be done.
    what: its name, as 'dump'.

  Raises:
    DataError: the work there is another job's.
  """
  path = folder / JOB
  if not path.is_file():
    return None
  with advised('--restart starts over.'):
    there = json_records.read_json(path, type(job))
    job.check_continues(there, f'{folder} holds an unfinished {what}, begun')
  return there


def remove_leftover(folder: pathlib.Path, job: Job, what: str) -> None:
  """Removes what a run of this job left that was killed at its end.

  Raises:
    ResourceError: another process holds the folder.
  """
  if not folder.is_dir():
    return
  with contextlib.suppress(errors.DataError):  # Another job's, unfinished.
    job_in(folder, job, what)
    with json_records.explained(folder):
      lock = folder_lock.lock(folder, what)
    shutil.rmtree(folder, ignore_errors=True)
    lock.close()


@contextlib.contextmanager
def advised(advice: str) -> Iterator[None]:
  """Ends DataErrors with what else can be done."""
  try:
    yield
  except errors.DataError as error:
    raise errors.DataError(f'{error} {advice}') from error


def to_do(
  parts: Iterable[slice], is_finished: Callable[[int], bool], title: str
) -> Iterator[tuple[int, slice]]:
  """Parts that are still to be made, with their numbers and a bar.

  Args:
    parts: the examples of each.
    is_finished: whether the part of that number is there.
    title: of the bar.
  """
  parts, taken_up = list(parts), 0
  total = parts[-1].stop if parts else 0
  with tqdm.tqdm(total=total, desc=title, unit='example') as bar:
    for index, part in enumerate(parts):
      if is_finished(index):
        taken_up += part.stop - part.start
        bar.set_postfix_str(f'{taken_up} taken up from before')
      else:
        yield index, part
      bar.update(part.stop - part.start)


def slices(whole: slice, size: int) -> Iterator[slice]:
  """Cuts a range into parts of `size`; the last may be shorter."""
  for start in range(whole.start, whole.stop, size):
    yield slice(start, min(start + size, whole.stop))
