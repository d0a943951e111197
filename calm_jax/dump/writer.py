"""Writes a dump: npz shards and, last, the manifest that makes it complete.

Follows `dump.runner` in the data flow. Everything is written to
`<directory>.partial` and renamed when the manifest is in it, so that
`<directory>` is a complete dump or does not exist: a killed run leaves only the
partial directory, which the next run replaces. The same data give the same
bytes. NumPy only, no pickle.
"""

import contextlib
import dataclasses
import hashlib
import io
import os
import pathlib
import shutil
import zipfile
from collections.abc import Iterable, Iterator
from typing import Self

import numpy as np

from calm_jax import contracts, dump_arrays, errors

MANIFEST = 'manifest.json'
_SHARD = 'shard-{:05d}.npz'
# The first date that a zip file can hold: a clock would change the bytes.
_EPOCH = (1980, 1, 1, 0, 0, 0)


class ShardWriter:
  """Writes one shard per call, as a context manager.

    with ShardWriter(directory, header) as writer:
      for batch in batches:
        writer.write(batch)

  Leaving the block completes the dump; leaving it by an exception removes what
  was written and leaves an older dump as it was.
  """

  def __init__(
    self,
    directory: str | os.PathLike,
    header: contracts.Manifest,
    *,
    overwrite: bool = False,
  ):
    """Checks the target before any work is done for it.

    Args:
      directory: where the complete dump will be.
      header: a manifest without shards.
      overwrite: whether a complete dump there may be replaced. The old one is
        removed after the new one is complete.

    Raises:
      DataError: the directory holds a dump (and not `overwrite`), or other
        files.
      ResourceError: the directory cannot be written.
    """
    # Absolute, so that a target of '.' or a trailing slash has a name.
    self._directory = pathlib.Path(directory).expanduser().resolve()
    self._partial = self._directory.with_name(self._directory.name + '.partial')
    self._header = header
    self._shards: list[contracts.ShardInfo] = []
    self._ids: set[str] = set()
    self.manifest: contracts.Manifest | None = None  # once complete
    _check_target(self._directory, overwrite)
    _replaceable(self._partial)
    with _explained(self._partial):
      shutil.rmtree(self._partial, ignore_errors=True)
      self._partial.mkdir(parents=True)

  def __enter__(self) -> Self:
    return self

  def __exit__(self, exception_type, exception, traceback) -> None:
    try:
      if exception_type is None:
        self._complete()
    finally:
      shutil.rmtree(self._partial, ignore_errors=True)

  def write(self, batch: contracts.Dump) -> None:
    """Writes one shard.

    Raises:
      DataError: it does not fit the header, or repeats an example id.
      ResourceError: it cannot be written.
    """
    check_fits(self._header, batch, 'The batch')
    ids = batch.example_ids.tolist()
    if repeated := sorted(self._ids.intersection(ids)):
      raise errors.DataError(
        f'Example ids must be unique in a dump, but {repeated[:5]} come twice.'
      )
    self._ids.update(ids)
    content = _npz_bytes(batch)
    name = _SHARD.format(len(self._shards))
    contracts.write_bytes_atomically(self._partial / name, content)
    digest = hashlib.sha256(content).hexdigest()
    self._shards.append(contracts.ShardInfo(name, len(ids), digest))

  def _complete(self) -> None:
    if not self._ids:
      raise errors.DataError(
        f'A dump needs at least one example, but the split'
        f' {self._header.split!r} of {self._header.task!r} gave none.'
      )
    self.manifest = dataclasses.replace(
      self._header, num_examples=len(self._ids), shards=tuple(self._shards)
    )
    contracts.write_json_atomically(self._partial / MANIFEST, self.manifest)
    replaced = self._directory.with_name(self._directory.name + '.replaced')
    with _explained(self._directory):
      _replaceable(replaced)
      shutil.rmtree(replaced, ignore_errors=True)
      if self._directory.exists():
        self._directory.rename(replaced)
      self._partial.rename(self._directory)
      shutil.rmtree(replaced, ignore_errors=True)


def write_dump(
  directory: str | os.PathLike,
  header: contracts.Manifest,
  batches: Iterable[contracts.Dump],
  *,
  overwrite: bool = False,
) -> contracts.Manifest:
  """Writes `batches`, one shard each; see `ShardWriter` for the errors."""
  with ShardWriter(directory, header, overwrite=overwrite) as writer:
    for batch in batches:
      writer.write(batch)
  return writer.manifest


def check_fits(
  manifest: contracts.Manifest, dump: contracts.Dump, what: str
) -> None:
  """Raises a DataError if the arrays have other sizes than the manifest."""
  expected = (
    len(manifest.thresholds),
    manifest.max_decode_length,
    manifest.num_decoder_layers,
  )
  got = (*dump.tokens.shape[1:], dump.trace_tokens.shape[2])
  if got != expected:
    raise errors.DataError(
      f'{what} must have [thresholds, length, layers] = {list(expected)} as the'
      f' manifest says, got {list(got)}.'
    )


def _npz_bytes(dump: contracts.Dump) -> bytes:
  """As `np.savez_compressed`, with fixed dates in place of the clock's."""
  buffer = io.BytesIO()
  with zipfile.ZipFile(buffer, 'w', zipfile.ZIP_DEFLATED) as archive:
    for name in dump_arrays.ARRAYS:
      array = np.ascontiguousarray(getattr(dump, name))
      # Little-endian on every machine.
      array = array.astype(array.dtype.newbyteorder('<'), copy=False)
      member = io.BytesIO()
      np.lib.format.write_array(member, array, allow_pickle=False)
      info = zipfile.ZipInfo(f'{name}.npy', _EPOCH)
      info.compress_type = zipfile.ZIP_DEFLATED
      archive.writestr(info, member.getvalue())
  return buffer.getvalue()


def _check_target(directory: pathlib.Path, overwrite: bool) -> None:
  if (directory / MANIFEST).exists() and not overwrite:
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
  foreign = sorted(
    entry.name
    for entry in directory.iterdir()
    if not (MANIFEST in entry.name or 'shard-' in entry.name)
  )
  if foreign:
    raise errors.DataError(
      f'{directory} holds files that are no part of a dump ({foreign[:3]});'
      ' choose an empty or new directory.'
    )


@contextlib.contextmanager
def _explained(path: pathlib.Path) -> Iterator[None]:
  """Turns the operating system's errors into a ResourceError."""
  try:
    yield
  except OSError as error:
    raise errors.ResourceError(
      f'Cannot write {path}: {error.strerror or error}. Free space or choose'
      ' a directory that you may write to.'
    ) from error
