"""Reads a dump back: the first step below the waist of the data flow.

NumPy only. Nothing in a dump is executed: no pickle, only members and files
that the contract names, every shard checked against the manifest's digest.
"""

import hashlib
import io
import os
import pathlib
import re
import zipfile
import zlib

import numpy as np

from calm_jax import contracts, dump_arrays, errors
from calm_jax.dump import writer

_SHARD_NAME = re.compile(r'shard-\d{5,}\.npz')


def read_dump(
  directory: str | os.PathLike,
) -> tuple[contracts.Manifest, contracts.Dump]:
  """Reads and checks a whole dump.

  Returns:
    The manifest, and the arrays of all shards joined in the manifest's order.

  Raises:
    DataError: the directory holds no complete dump, or one of another version,
      truncated, altered, with missing shards or repeated ids.
    NumericError: a confidence is NaN or infinite.
  """
  directory = pathlib.Path(directory).expanduser()
  manifest = read_manifest(directory)
  if not manifest.shards:
    raise errors.DataError(f'{directory} holds a dump without any example.')
  shards = [_read_shard(directory, shard) for shard in manifest.shards]
  for info, shard in zip(manifest.shards, shards, strict=True):
    writer.check_fits(manifest, shard, str(directory / info.file))
  return manifest, contracts.Dump.concatenate(shards)


def read_manifest(directory: str | os.PathLike) -> contracts.Manifest:
  """Reads the manifest alone; the errors are `read_dump`'s."""
  directory = pathlib.Path(directory).expanduser()
  if not directory.is_dir():
    raise errors.DataError(
      f'The dump {directory} does not exist; run `calm dump` first or give its'
      ' directory.'
    )
  if not (directory / writer.MANIFEST).is_file():
    raise errors.DataError(
      f'{directory} has no {writer.MANIFEST}, so it is not a complete dump; run'
      ' `calm dump` again.'
    )
  return contracts.read_json(directory / writer.MANIFEST, contracts.Manifest)


def _read_shard(
  directory: pathlib.Path, info: contracts.ShardInfo
) -> contracts.Dump:
  # A manifest must not make us read files elsewhere.
  if not _SHARD_NAME.fullmatch(info.file):
    raise errors.DataError(
      f'{directory}: a shard must be named shard-00000.npz, got {info.file!r}.'
    )
  path = directory / info.file
  content = _shard_bytes(path, info)
  try:
    dump = contracts.Dump(**_arrays(content))
  except (ValueError, KeyError, OSError, zipfile.BadZipFile, zlib.error) as e:
    raise errors.DataError(
      f'{path} is not a shard of a dump: {e}. Run `calm dump` again.'
    ) from e
  except errors.DataError as error:
    raise errors.DataError(f'{path}: {error}') from error
  if dump.num_examples != info.num_examples:
    raise errors.DataError(
      f'{path} must hold {info.num_examples} examples as the manifest says,'
      f' got {dump.num_examples}.'
    )
  return dump


def _shard_bytes(path: pathlib.Path, info: contracts.ShardInfo) -> bytes:
  try:
    content = path.read_bytes()
  except FileNotFoundError as error:
    raise errors.DataError(
      f'{path} is missing from the dump; run `calm dump` again.'
    ) from error
  except OSError as error:
    raise errors.ResourceError(
      f'Cannot read {path}: {error.strerror or error}.'
    ) from error
  digest = hashlib.sha256(content).hexdigest()
  if digest != info.sha256:
    raise errors.DataError(
      f'{path} ({len(content)} bytes) is truncated or altered: its SHA-256 must'
      f' be {info.sha256[:12]}..., got {digest[:12]}...; run `calm dump` again.'
    )
  return content


def _arrays(content: bytes) -> dict[str, np.ndarray]:
  expected = [f'{name}.npy' for name in dump_arrays.ARRAYS]
  with zipfile.ZipFile(io.BytesIO(content)) as archive:
    if sorted(archive.namelist()) != sorted(expected):
      raise ValueError(
        f'it must hold {expected}, got {archive.namelist()[:12]}'
      )
    return {
      name: np.lib.format.read_array(
        io.BytesIO(archive.read(f'{name}.npy')), allow_pickle=False
      )
      for name in dump_arrays.ARRAYS
    }
