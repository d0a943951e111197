"""T5X's files of an inference run, finished chunk by chunk.

    <output_dir>/tmp-<task>-00000-of-00001/
      job.json, lock
      <name>-chunk00000, <name>-chunk00000.COMPLETED, ...
    --complete--> <output_dir>/<name>, <name>.COMPLETED
    where <name> is <task>-<mode>.jsonl-00000-of-00001

Names are T5X's. Its markers are empty; ours tell what they complete: a chunk's
digest and counts, and the settings of the whole run, so that a file of other
settings, or a damaged one, is not taken for this one's. Standard library only.
"""

import dataclasses
import hashlib
import logging
import os
import pathlib
from collections.abc import Iterable, Iterator
from typing import Self

from calm_jax import errors
from calm_jax.records import json_records, unfinished

_DONE = '.COMPLETED'
_WHAT = 'inference run'
_COPIED_AT_ONCE = 2**20
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job(unfinished.Job):
  """What decides every byte of the results.

  Attributes:
    task: or the name of a text file; the results are named after it.
    mode: one of `records.MODES`.
    split: '' for a text file.
    threshold: of the exits; 1 is the full model.
    decoding: how tokens are chosen, with all knobs.
    num_decodes: outputs of a text.
    inputs_length, max_decode_length: in tokens.
    shard_id, num_shards: which share of the examples, of how many.
    num_examples: of this share.
    batch_size: texts decoded side by side.
    batches_per_chunk: finished together.
    measure, threshold_schedule: of confidence; their reprs.
    examples_digest: of the texts, in their order.
    model_digest, config_digest: of the weights, and of the sizes and exits.
    versions: of packages.
    command: repeats the run.
  """

  task: str
  mode: str
  split: str
  threshold: float
  decoding: str
  num_decodes: int
  inputs_length: int
  max_decode_length: int
  shard_id: int
  num_shards: int
  num_examples: int
  batch_size: int
  batches_per_chunk: int
  measure: str
  threshold_schedule: str
  examples_digest: str
  model_digest: str
  config_digest: str
  versions: dict[str, str]
  command: str

  def __post_init__(self):
    if not self.task or {*self.task} & {'/', '\\', '\0'}:
      raise errors.ConfigError(
        f'Results are files named after their task, got {self.task!r}; give it'
        ' a name without slashes.'
      )
    if not 0 <= self.shard_id < self.num_shards:
      raise errors.ConfigError(
        f'shard_id must be from 0 to num_shards - 1 = {self.num_shards - 1},'
        f' got {self.shard_id}.'
      )

  @property
  def file_name(self) -> str:
    return f'{self.task}-{self.mode}.jsonl-{self._share}'

  @property
  def folder_name(self) -> str:
    return f'tmp-{self.task}-{self._share}'

  @property
  def _share(self) -> str:
    return f'{self.shard_id:05}-of-{self.num_shards:05}'


@dataclasses.dataclass(frozen=True)
class Counts(json_records.Record):
  """Of one chunk, or of a whole file.

  Attributes:
    examples: lines.
    tokens: that the model chose; those of prompts are none.
    layers: decoder layers that they used, together.
  """

  examples: int
  tokens: int
  layers: int

  def __add__(self, other: 'Counts') -> 'Counts':
    return Counts(
      self.examples + other.examples,
      self.tokens + other.tokens,
      self.layers + other.layers,
    )


@dataclasses.dataclass(frozen=True)
class _ChunkMarker(json_records.Record):
  sha256: str
  counts: Counts


@dataclasses.dataclass(frozen=True)
class _FileMarker(json_records.Record):
  job: Job
  counts: Counts
  sha256: str = ''  # Not yet known to the first markers.


class Results:
  """Chunks, each once; then `complete`.

    with Results(output_dir, job) as results:
      if results.counts is None:
        for index, ...:
          if not results.has(index):
            results.put(index, ...)
        results.complete(number of chunks)

  Leaving the block keeps finished chunks for the next run of the same job.
  """

  def __init__(
    self,
    output_dir: str | os.PathLike,
    job: Job,
    *,
    overwrite: bool = False,
    restart: bool = False,
  ):
    """Takes up what is there, before any work is done.

    Args:
      output_dir: of all results.
      job: what is inferred.
      overwrite: whether a complete file is made anew; it is replaced when the
        new one is complete.
      restart: whether unfinished work is thrown away and begun anew.

    Raises:
      DataError: the results there, complete (and not `overwrite`) or not (and
        not `restart`), are another job's; or complete ones are damaged.
      ResourceError: the folder cannot be written, or another process is
        writing these results.
    """
    # Absolute, and without what T5X removes by hand: double slashes.
    directory = pathlib.Path(output_dir).expanduser().absolute()
    self.path = directory / job.file_name
    self.counts: Counts | None = None
    self._marker = directory / (job.file_name + _DONE)
    self._job = job
    self._chunks: dict[int, Counts] = {}
    self._folder: unfinished.Folder | None = None
    path = directory / job.folder_name
    if not overwrite:
      self.counts = self._completed()
    if self.counts is None or self._outlived_its_job(path):
      self._folder = unfinished.Folder(
        path, _WHAT, lambda name: name.endswith(_DONE)
      )
    if self.counts is None:
      self._job = self._folder.take_up(job, restart=restart)

  def __enter__(self) -> Self:
    return self

  def __exit__(self, exception_type, exception, traceback) -> None:
    if self._folder is not None:
      is_of_use = self.counts is None and self._folder.has_parts()
      self._folder.leave(remove=not is_of_use)

  def has(self, index: int) -> bool:
    """Whether a chunk is finished; a damaged one counts as not finished."""
    marker = self._chunk(index, _DONE)
    if not marker.is_file():
      return False
    try:
      there = json_records.read_json(marker, _ChunkMarker)
      if _digest(_read(self._chunk(index))) == there.sha256:
        self._chunks[index] = there.counts
        return True
      _log.warning('%s is damaged and made again.', self._chunk(index))
    except errors.DataError as error:
      _log.warning('A chunk is made again: %s', error)
    except OSError as error:
      _log.warning('%s is made again: %s.', self._chunk(index), error.strerror)
    return False

  def put(self, index: int, lines: bytes, counts: Counts) -> None:
    """Writes a chunk, and then its marker.

    Raises:
      ResourceError: it cannot be written.
    """
    json_records.write_bytes_atomically(self._chunk(index), lines)
    marker = _ChunkMarker(_digest([lines]), counts)
    json_records.write_json_atomically(self._chunk(index, _DONE), marker)
    self._chunks[index] = counts

  def complete(self, num_chunks: int) -> Counts:
    """Joins the chunks into one file and removes them.

    Raises:
      ResourceError: the operating system refused.
    """
    counts = Counts(0, 0, 0)
    for index in range(num_chunks):
      counts += self._chunks[index]
    with unfinished.explained(self.path):
      # It would be the marker of other content between the two renames.
      self._marker.unlink(missing_ok=True)
    digest = hashlib.sha256()

    def parts() -> Iterator[bytes]:
      for index in range(num_chunks):
        for part in _read(self._chunk(index)):
          digest.update(part)
          yield part

    json_records.write_parts_atomically(self.path, parts())
    marker = _FileMarker(self._job, counts, digest.hexdigest())
    json_records.write_json_atomically(self._marker, marker)
    self.counts = counts
    return counts

  def _completed(self) -> Counts | None:
    if not (self._marker.is_file() and self.path.is_file()):
      return None
    with unfinished.advised('--overwrite replaces the complete file.'):
      # An empty marker is T5X's own.
      there = json_records.read_json(self._marker, _FileMarker)
      self._job.check_continues(there.job, f'{self.path} is complete, but made')
      if there.sha256 and there.sha256 != _digest(_read(self.path)):
        raise errors.DataError(f'{self.path} was altered or truncated.')
    return there.counts

  def _outlived_its_job(self, folder: pathlib.Path) -> bool:
    """Whether the folder is left over from a run that was killed at its end."""
    if not folder.is_dir():
      return False
    try:
      unfinished.job_in(folder, self._job, _WHAT)
      return True
    except errors.DataError:
      return False  # Another job's, which has yet to be finished.

  def _chunk(self, index: int, ending: str = '') -> pathlib.Path:
    return self._folder.path / f'{self._job.file_name}-chunk{index:05}{ending}'


def _read(path: pathlib.Path) -> Iterator[bytes]:
  with open(path, 'rb') as file:
    while part := file.read(_COPIED_AT_ONCE):
      yield part


def _digest(parts: Iterable[bytes]) -> str:
  digest = hashlib.sha256()
  for part in parts:
    digest.update(part)
  return digest.hexdigest()
