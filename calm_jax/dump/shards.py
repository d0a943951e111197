"""One shard of a dump as the bytes of an npz file, and back.

Below `partial` and `reader`. NumPy only, no pickle: only members that
the contract names. The same arrays give the same bytes.
"""

import io
import pathlib
import re
import zipfile
import zlib

import numpy as np

from calm_jax import errors
from calm_jax.records import contracts, dump_arrays

MANIFEST = 'manifest.json'
NAME = re.compile(r'shard-\d{5,}\.npz')
# The first date that a zip file can hold: a clock would change the bytes.
_EPOCH = (1980, 1, 1, 0, 0, 0)
# What zipfile and NumPy raise; RuntimeError where a bit says "encrypted", or
# names a compression that there is not.
_NO_ARCHIVE = (
  ValueError,
  KeyError,
  EOFError,
  OSError,
  RuntimeError,
  zipfile.BadZipFile,
  zlib.error,
)


def name_of(index: int) -> str:
  """The file of the shard with that number, from 0."""
  return f'shard-{index:05d}.npz'


def to_bytes(dump: contracts.Dump) -> bytes:
  """As `np.savez_compressed`, with fixed dates in place of the clock's."""
  buffer = io.BytesIO()
  with zipfile.ZipFile(buffer, 'w', zipfile.ZIP_DEFLATED) as archive:
    for name, array in dump.arrays().items():
      array = np.ascontiguousarray(array)
      # Little-endian on every machine.
      array = array.astype(array.dtype.newbyteorder('<'), copy=False)
      member = io.BytesIO()
      np.lib.format.write_array(member, array, allow_pickle=False)
      info = zipfile.ZipInfo(f'{name}.npy', _EPOCH)
      info.compress_type = zipfile.ZIP_DEFLATED
      archive.writestr(info, member.getvalue())
  return buffer.getvalue()


def from_bytes(content: bytes, path: pathlib.Path) -> contracts.Dump:
  """Reads a shard; `path` is for messages.

  Raises:
    DataError: it is no shard, or holds what a dump cannot.
    NumericError: a confidence is NaN or infinite.
  """
  try:
    return contracts.Dump(**_arrays(content))
  except _NO_ARCHIVE as e:
    raise errors.DataError(
      f'{path} is not a shard of a dump: {e}. Run `calm dump` again.'
    ) from e
  except errors.DataError as error:
    raise errors.DataError(f'{path}: {error}') from error


def read_bytes(path: pathlib.Path) -> bytes:
  """The file's content.

  Raises:
    DataError: there is no such file.
    ResourceError: it cannot be read.
  """
  try:
    return path.read_bytes()
  except FileNotFoundError as error:
    raise errors.DataError(
      f'{path} is missing from the dump; run `calm dump` with --overwrite.'
    ) from error
  except OSError as error:
    raise errors.ResourceError(
      f'Cannot read {path}: {error.strerror or error}.'
    ) from error


def check_fits(
  manifest: contracts.Manifest, dump: contracts.Dump, what: str
) -> None:
  """Raises a DataError if the arrays have other sizes than the manifest."""
  expected = (
    len(manifest.thresholds),
    manifest.model.max_decode_length,
    manifest.model.num_decoder_layers,
  )
  got = (*dump.tokens.shape[1:], dump.trace_tokens.shape[2])
  if got != expected:
    raise errors.DataError(
      f'{what} must have [thresholds, length, layers] = {list(expected)} as the'
      f' manifest says, got {list(got)}.'
    )


def _arrays(content: bytes) -> dict[str, np.ndarray]:
  with zipfile.ZipFile(io.BytesIO(content)) as archive:
    members = archive.namelist()
    names = [member.removesuffix('.npy') for member in members]
    may_hold = dump_arrays.ARRAYS | dump_arrays.OPTIONAL_ARRAYS
    if (
      len(set(members)) != len(members)
      or any(not member.endswith('.npy') for member in members)
      or not set(dump_arrays.ARRAYS) <= set(names) <= set(may_hold)
    ):
      raise ValueError(
        f'it must hold {[f"{name}.npy" for name in dump_arrays.ARRAYS]}, got'
        f' {members[:12]}'
      )
    return {
      name: np.lib.format.read_array(
        io.BytesIO(archive.read(f'{name}.npy')), allow_pickle=False
      )
      for name in names
    }
