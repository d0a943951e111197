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
import os
import pathlib
import re
from collections.abc import Iterable, Iterator

from calm_jax import errors
from calm_jax.records import json_records, model_description, unfinished

_DONE = '.COMPLETED'
_MARKERS = re.compile(r'.+\.COMPLETED')
_WHAT = 'inference run'
_COPIED_AT_ONCE = 2**20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job(unfinished.Job):
  """What decides every byte of the results.

  Attributes:
    task: or the name of a text file; the results are named after it.
    mode: one of `records.MODES`.
    split: '' for a text file.
    threshold: of the exits; 1 is the full model.
    model: with the `decode_fn` and the lengths of this run.
    num_decodes: outputs of a text.
    num_beams: of a beam search; 0 without one.
    seed: of the draws.
    prompt: how every output begins.
    shard_id, num_shards: which share of the examples, of how many.
    num_examples: of this share.
    batch_size: texts decoded side by side.
    rows_per_pack: of them, as `decode.model.EncoderDecoderModel` has it.
    batches_per_chunk: finished together.
    examples_digest: of the texts, in their order.
    versions: of packages.
    command: repeats the run.
  """

  task: str
  mode: str
  split: str
  threshold: float
  model: model_description.ModelDescription
  num_decodes: int
  num_beams: int
  seed: int
  prompt: str
  shard_id: int
  num_shards: int
  num_examples: int
  batch_size: int
  rows_per_pack: tuple[int, ...]
  batches_per_chunk: int
  examples_digest: str
  versions: dict[str, str]
  command: str
  schema_version: int = json_records.RESULTS_VERSION

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


class Results(unfinished.Folder[Job]):
  """Chunks, each once; then `complete`.

    with Results(output_dir, job) as results:
      for index, ...:
        if not results.has(index):
          results.put(index, ...)
      results.complete(number of chunks)

  An older file stays as it was until the new one is complete.
  """

  def __init__(
    self, output_dir: str | os.PathLike, job: Job, *, restart: bool = False
  ):
    """Takes up what is there, before any work is done.

    Args:
      output_dir: of all results.
      job: what is inferred.
      restart: whether unfinished work is thrown away and begun anew.

    Raises:
      DataError: unfinished results of another job are there (and not
        `restart`).
      ResourceError: the folder cannot be written, or another process is
        writing these results.
    """
    directory = _absolute(output_dir)
    self._file = directory / job.file_name
    self._chunks: dict[int, Counts] = {}
    super().__init__(
      directory / job.folder_name, job, _WHAT, _MARKERS, restart=restart
    )

  def has(self, index: int) -> bool:
    """Whether a chunk is finished; a damaged one counts as not finished."""
    counts = self.part(self._chunk(index).name + _DONE, _counts_of_chunk)
    if counts is not None:
      self._chunks[index] = counts
    return counts is not None

  def put(self, index: int, lines: bytes, counts: Counts) -> None:
    """Writes a chunk, and then its marker.

    Raises:
      ResourceError: it cannot be written.
    """
    chunk = self._chunk(index)
    json_records.write_bytes_atomically(chunk, lines)
    marker = _ChunkMarker(_digest([lines]), counts)
    json_records.write_json_atomically(_marker(chunk), marker)
    self._chunks[index] = counts

  def complete(self, num_chunks: int) -> Counts:
    """Joins the chunks into one file and removes them.

    Raises:
      ResourceError: the operating system refused.
    """
    counts = Counts(0, 0, 0)
    for index in range(num_chunks):
      counts += self._chunks[index]
    with json_records.explained(self._file):
      # It would be the marker of other content between the two renames.
      _marker(self._file).unlink(missing_ok=True)
    digest = hashlib.sha256()

    def parts() -> Iterator[bytes]:
      for index in range(num_chunks):
        for part in _read(self._chunk(index)):
          digest.update(part)
          yield part

    json_records.write_parts_atomically(self._file, parts())
    marker = _FileMarker(self.job, counts, digest.hexdigest())
    json_records.write_json_atomically(_marker(self._file), marker)
    self.discard()
    return counts

  def _chunk(self, index: int) -> pathlib.Path:
    return self.path / f'{self.job.file_name}-chunk{index:05}'


def completed(output_dir: str | os.PathLike, job: Job) -> Counts | None:
  """What a job's complete file holds, which is undamaged; None without one.

  What a run that was killed at its end has left is removed.

  Raises:
    DataError: the file is another job's, or damaged.
    ResourceError: another process is writing these results.
  """
  directory = _absolute(output_dir)
  file = directory / job.file_name
  if not (_marker(file).is_file() and file.is_file()):
    return None
  with unfinished.advised('--overwrite replaces the complete file.'):
    # An empty marker is T5X's own.
    there = json_records.read_json(_marker(file), _FileMarker)
    job.check_continues(there.job, f'{file} is complete, but made')
    if there.sha256 and there.sha256 != _digest(_read(file)):
      raise errors.DataError(f'{file} was altered or truncated.')
  unfinished.remove_leftover(directory / job.folder_name, job, _WHAT)
  return there.counts


def _absolute(output_dir: str | os.PathLike) -> pathlib.Path:
  """Also without what T5X removes by hand: double slashes."""
  return pathlib.Path(output_dir).expanduser().absolute()


def _marker(path: pathlib.Path) -> pathlib.Path:
  return path.with_name(path.name + _DONE)


def _counts_of_chunk(marker: pathlib.Path) -> Counts:
  """Raises a DataError if marker or chunk is damaged."""
  there = json_records.read_json(marker, _ChunkMarker)
  chunk = marker.with_name(marker.name.removesuffix(_DONE))
  if not chunk.is_file() or _digest(_read(chunk)) != there.sha256:
    raise errors.DataError(f'{chunk} is missing or damaged.')
  return there.counts


def _read(path: pathlib.Path) -> Iterator[bytes]:
  with open(path, 'rb') as file:
    while part := file.read(_COPIED_AT_ONCE):
      yield part


def _digest(parts: Iterable[bytes]) -> str:
  digest = hashlib.sha256()
  for part in parts:
    digest.update(part)
  return digest.hexdigest()
