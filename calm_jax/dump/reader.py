"""Reads a dump back: the first step below the waist of the data flow.

NumPy only. Nothing in a dump is executed: no pickle, only members and files
that the contract names, every shard checked against the manifest's digest.
"""

import hashlib
import os
import pathlib

from calm_jax import errors
from calm_jax.dump import shards
from calm_jax.records import contracts


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
  parts = [_read_shard(directory, info) for info in manifest.shards]
  for info, part in zip(manifest.shards, parts, strict=True):
    shards.check_fits(manifest, part, str(directory / info.file))
  return manifest, contracts.Dump.concatenate(parts)


def read_manifest(directory: str | os.PathLike) -> contracts.Manifest:
  """Reads the manifest alone; the errors are `read_dump`'s."""
  directory = pathlib.Path(directory).expanduser()
  if not directory.is_dir():
    raise errors.DataError(
      f'The dump {directory} does not exist; run `calm dump` first or give its'
      ' directory.'
    )
  if not (directory / shards.MANIFEST).is_file():
    raise errors.DataError(
      f'{directory} has no {shards.MANIFEST}, so it is not a complete dump; run'
      ' `calm dump` again.'
    )
  return contracts.read_json(directory / shards.MANIFEST, contracts.Manifest)


def check_shards(directory: pathlib.Path, manifest: contracts.Manifest) -> None:
  """Raises a DataError if a shard is missing or has another digest."""
  for info in manifest.shards:
    _content(directory, info)


def _content(directory: pathlib.Path, info: contracts.ShardInfo) -> bytes:
  # A manifest must not make us read files elsewhere.
  if not shards.NAME.fullmatch(info.file):
    raise errors.DataError(
      f'{directory}: a shard must be named shard-00000.npz, got {info.file!r}.'
    )
  path = directory / info.file
  content = shards.read_bytes(path)
  digest = hashlib.sha256(content).hexdigest()
  if digest != info.sha256:
    raise errors.DataError(
      f'{path} ({len(content)} bytes) is truncated or altered: its SHA-256 must'
      f' be {info.sha256[:12]}..., got {digest[:12]}...; run `calm dump` with'
      ' --overwrite.'
    )
  return content


def _read_shard(
  directory: pathlib.Path, info: contracts.ShardInfo
) -> contracts.Dump:
  path = directory / info.file
  dump = shards.from_bytes(_content(directory, info), path)
  if dump.num_examples != info.num_examples:
    raise errors.DataError(
      f'{path} must hold {info.num_examples} examples as the manifest says,'
      f' got {dump.num_examples}.'
    )
  return dump
