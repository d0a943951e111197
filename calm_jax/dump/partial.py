"""The folder of an unfinished dump, which a killed run leaves to the next.

    <directory>.partial/  job.json, lock, shard-00000.npz, ...
    --complete--> <directory>/  job.json, manifest.json, shard-00000.npz, ...

`<directory>` is a complete dump or does not exist. Every shard is written under
another name and then renamed, so what is there is finished; `job.json` says of
which run, before and after, and a run with other settings is refused. NumPy
only.
"""

import dataclasses
import hashlib
import os
import pathlib
import shutil

from calm_jax import errors
from calm_jax.dump import reader, shards
from calm_jax.records import contracts, folder_lock, json_records, unfinished


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job(unfinished.Job):
  """What decides every byte of a dump.

  Attributes:
    header: the manifest without shards; its thresholds are those asked for.
    examples_digest: of ids, inputs and references, in their order.
    examples_per_shard: of all shards but the last.
    thresholds_per_pass: how many are generated before the next are.
    rows: decoded side by side.
    rows_per_pack: of them, as `decode.model.EncoderDecoderModel` has it.
    stopping: '' or the rule by which lower thresholds are left out.
    num_examples: 0 where nobody knows it beforehand.
  """

  header: contracts.Manifest
  examples_digest: str
  examples_per_shard: int
  thresholds_per_pass: int
  rows: int
  rows_per_pack: tuple[int, ...] = ()
  stopping: str = ''
  num_examples: int = 0
  schema_version: int = json_records.RESULTS_VERSION

  def made(self, manifest: contracts.Manifest) -> bool:
    """Whether a manifest is that of this job's dump."""
    asked, count = self.header.thresholds, len(manifest.thresholds)
    header = dataclasses.replace(
      self.header,
      thresholds=asked[:count],
      num_examples=manifest.num_examples,
      shards=manifest.shards,
      stopped=manifest.stopped,
    )
    return (
      manifest == header
      and (count == len(asked) or manifest.stopped != '')
      and self.num_examples in (0, manifest.num_examples)
    )


class PartialDump(unfinished.Folder[Job]):
  """Shards in any order, each as often as it grows; then `complete`.

    with PartialDump(directory, job) as partial:
      for index, ...:
        if partial.shard(index) is None:
          partial.put(index, ...)
      partial.complete(...)

  An older dump stays as it was until the new one is complete.
  """

  def __init__(
    self,
    directory: str | os.PathLike,
    job: Job,
    *,
    overwrite: bool = False,
    restart: bool = False,
  ):
    """Checks the target and takes up what is there, before any work is done.

    Args:
      directory: where the complete dump will be.
      job: what is dumped.
      overwrite: whether a complete dump there may be replaced. The old one is
        removed after the new one is complete.
      restart: whether an unfinished dump is thrown away and begun anew.

    Raises:
      DataError: the directory holds a dump (and not `overwrite`) or other
        files, or an unfinished dump of another job (and not `restart`).
      ResourceError: the directory cannot be written, or another process is
        writing this dump.
    """
    # Absolute, so that a target of '.' or a trailing slash has a name.
    self._directory = pathlib.Path(directory).expanduser().resolve()
    self._done: dict[int, contracts.ShardInfo] = {}
    self._index_of: dict[str, int] = {}  # by example id
    self._overwrite = overwrite
    _check_target(self._directory, overwrite)
    path = self._directory.with_name(self._directory.name + '.partial')
    _replaceable(path)
    super().__init__(path, job, 'dump', shards.NAME, restart=restart)

  def shard(self, index: int) -> contracts.Dump | None:
    """A finished shard, or None; a damaged one counts as not finished.

    It may hold fewer thresholds than the job, if passes are still to come.
    """

    found = self.part(shards.name_of(index), _shard_of)
    if found is None:
      return None
    self._note(index, *found)
    return found[1]

  def put(self, index: int, dump: contracts.Dump) -> None:
    """Writes a shard, in place of an earlier one of that number.

    Raises:
      DataError: the shard repeats an example of another one.
      ResourceError: it cannot be written.
    """
    content = shards.to_bytes(dump)
    self._note(index, content, dump)
    contracts.write_bytes_atomically(self.path / shards.name_of(index), content)

  def complete(self, num_thresholds: int, stopped: str) -> contracts.Manifest:
    """Makes it a dump of the first thresholds of the job.

    Args:
      num_thresholds: which all shards hold.
      stopped: '' or why these are not all.

    Returns:
      The manifest.

    Raises:
      DataError: there is no shard, or meanwhile a complete dump (and not
        `overwrite`).
      ResourceError: the operating system refused.
    """
    _check_target(self._directory, self._overwrite)
    header = self.job.header
    if not self._done:
      raise errors.DataError(
        f'A dump needs at least one example, but the split {header.split!r} of'
        f' {header.task!r} gave none.'
      )
    manifest = dataclasses.replace(
      header,
      thresholds=header.thresholds[:num_thresholds],
      num_examples=sum(x.num_examples for x in self._done.values()),
      shards=tuple(self._done[index] for index in sorted(self._done)),
      stopped=stopped,
    )
    contracts.write_json_atomically(self.path / shards.MANIFEST, manifest)
    replaced = _replaced(self._directory)
    with json_records.explained(self._directory):
      _replaceable(replaced)
      shutil.rmtree(replaced, ignore_errors=True)
      if self._directory.exists():
        self._directory.rename(replaced)
      self.become(self._directory)
      # Not before: a folder without its lock is anybody's.
      _remove_leftovers(self._directory)
    return manifest

  def _note(self, index: int, content: bytes, dump: contracts.Dump) -> None:
    ids = dump.example_ids.tolist()
    if repeated := [x for x in ids if self._index_of.get(x, index) != index]:
      raise errors.DataError(
        f'Example ids must be unique in a dump, but {repeated[:5]} come twice.'
      )
    self._index_of.update(dict.fromkeys(ids, index))
    digest = hashlib.sha256(content).hexdigest()
    self._done[index] = contracts.ShardInfo(
      shards.name_of(index), len(ids), digest
    )


def _shard_of(path: pathlib.Path) -> tuple[bytes, contracts.Dump]:
  content = shards.read_bytes(path)
  return content, shards.from_bytes(content, path)


def completed(
  directory: str | os.PathLike, job: Job
) -> contracts.Manifest | None:
  """The manifest of a job's complete dump, whose shards are undamaged.

  What a run that was killed after its last rename has left is removed.

  Returns:
    None if no dump is there, or one of an older version, which named no job.

  Raises:
    DataError: the dump is another job's, or damaged.
  """
  directory = pathlib.Path(directory).expanduser().resolve()
  path = directory / unfinished.JOB
  if not ((directory / shards.MANIFEST).is_file() and path.is_file()):
    return None
  with unfinished.advised('--overwrite replaces the complete dump.'):
    there = contracts.read_json(path, Job)
    job.check_continues(there, f'{directory} is complete, but made')
    manifest = reader.read_manifest(directory)
    if not there.made(manifest):
      raise errors.DataError(
        f'{directory}: {shards.MANIFEST} and {unfinished.JOB} must be of one'
        ' run, but are not.'
      )
  reader.check_shards(directory, manifest)
  _remove_leftovers(directory)
  return manifest


def _remove_leftovers(directory: pathlib.Path) -> None:
  """What is of no use beside a complete dump."""
  with json_records.explained(directory):
    (directory / folder_lock.LOCK).unlink(missing_ok=True)
  shutil.rmtree(_replaced(directory), ignore_errors=True)


def _replaced(directory: pathlib.Path) -> pathlib.Path:
  """Where an older dump lies until the new one has its name."""
  return directory.with_name(directory.name + '.replaced')


def _check_target(directory: pathlib.Path, overwrite: bool) -> None:
  if (directory / shards.MANIFEST).exists() and not overwrite:
    raise errors.DataError(
      f'{directory} already holds a complete dump; choose another directory or'
      ' ask to overwrite it.'
    )
  _replaceable(directory)


def _replaceable(directory: pathlib.Path) -> None:
  """Refuses to remove what this module did not write."""
  if not directory.exists():
    return
  if not directory.is_dir():
    raise errors.DataError(f'{directory} is a file; give a directory.')
  known = (shards.MANIFEST, unfinished.JOB, 'shard-')
  foreign = sorted(
    name
    for name in (path.name for path in directory.glob('*'))
    if name != folder_lock.LOCK and not any(part in name for part in known)
  )
  if foreign:
    raise errors.DataError(
      f'{directory} holds files that are no part of a dump ({foreign[:3]});'
      ' choose an empty or new directory.'
    )
