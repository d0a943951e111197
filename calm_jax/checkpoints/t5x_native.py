"""T5X's native format: a msgpack index and a zarr directory per array.

    checkpoint_N/checkpoint      {'version': 3, 'optimizer': {target, state}}
    checkpoint_N/target.encoder.encoder_norm.scale/{.zarray,0}

An array of the tree is in the index itself, or the index says where it is.
"""

import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import msgpack
import numpy as np
import tensorstore

from calm_jax import errors
from calm_jax.checkpoints import finding, param_trees

INDEX = finding.T5X_INDEX
# Flax's msgpack extensions for an array and for one number, both as (shape,
# type name, bytes).
_ARRAY_EXTENSIONS = (1, 3)
# Types by the names in zarr's metadata. Stating one refuses another byte order.
_ZARR_TYPES = {
  'float32': '<f4',
  'float64': '<f8',
  'float16': '<f2',
  'bfloat16': 'bfloat16',
  'int32': '<i4',
  'int64': '<i8',
}


def is_native(directory: pathlib.Path) -> bool:
  """Whether a directory has the index of this format (or TensorFlow's)."""
  return (directory / INDEX).is_file()


class NativeCheckpoint:
  """See `from_t5x.Checkpoint`."""

  def __init__(self, directory: pathlib.Path):
    self.directory = directory
    self._entries = param_trees.flatten(_read_index(directory))
    self.shapes = {name: entry.shape for name, entry in self._entries.items()}

  def read(self, names: Iterable[str]) -> dict[str, np.ndarray]:
    return {name: self._entries[name].read() for name in names}


class _StoredArray:
  """An array in the index itself."""

  def __init__(self, array: np.ndarray):
    self._array = array
    self.shape = array.shape

  def read(self) -> np.ndarray:
    return self._array


class _ZarrArray:
  """An array in a zarr directory that the index points to."""

  def __init__(self, directory: pathlib.Path, spec: Mapping[str, Any]):
    if spec['driver'] == 'cast':
      spec = spec['base']
    # Only the last part of the path: the checkpoint may have been moved, and
    # must not make us read elsewhere.
    name = pathlib.PurePosixPath(spec['kvstore']['path']).name
    if name == '..':
      raise ValueError('an array must lie next to the index')
    self._directory = directory / name
    metadata = spec['metadata']
    self.shape = tuple(metadata['shape'])
    # tensorstore refuses a .zarray that says otherwise.
    self._expected = {
      key: metadata[key] for key in ('chunks', 'compressor') if key in metadata
    } | {'shape': list(self.shape), 'order': 'C', 'filters': None}
    dtype = spec.get('dtype')
    if dtype is not None:
      self._expected['dtype'] = _ZARR_TYPES[dtype]

  def read(self) -> np.ndarray:
    try:
      store = tensorstore.open(
        {
          'driver': 'zarr',
          'kvstore': {'driver': 'file', 'path': f'{self._directory}/'},
          'metadata': self._expected,
          # Otherwise a chunk that was not copied reads as zeros.
          'fill_missing_data_reads': False,
        },
        open=True,
      ).result()
      array = store.read().result()
    except (ValueError, OverflowError) as error:  # all that it raises
      raise errors.DataError(
        f'{self._directory} is missing or damaged; copy the checkpoint again'
        f' ({str(error)[:200]}).'
      ) from error
    return array


def _read_index(directory: pathlib.Path) -> dict[str, Any]:
  """The tree under 'optimizer', with array readers as leaves."""
  path = directory / INDEX
  if not path.is_file():
    raise errors.DataError(
      f'{directory} is not a native T5X checkpoint: it has no file named'
      f' {INDEX}.'
    )
  content = path.read_bytes()
  if b'model_checkpoint_path' in content[:200]:
    raise finding.mesh_tensorflow(directory)
  try:
    tree = msgpack.unpackb(
      content, raw=False, strict_map_key=False, ext_hook=_unpack_array
    )
    return _readers(directory, tree['optimizer'])
  except errors.DataError:
    raise
  except Exception as error:  # damaged bytes fail in any way they like
    raise errors.DataError(
      f'{path} is not a T5X checkpoint index, or it is truncated'
      f' ({len(content)} bytes, {type(error).__name__}: {error}).'
    ) from error


def _unpack_array(code: int, data: bytes) -> np.ndarray:
  if code not in _ARRAY_EXTENSIONS:
    raise ValueError(f'unknown msgpack extension {code}')
  shape, dtype, buffer = msgpack.unpackb(data, raw=False)
  return np.frombuffer(buffer, dtype=np.dtype(dtype)).reshape(shape)


def _readers(directory: pathlib.Path, node: Any) -> Any:
  if isinstance(node, np.ndarray):
    return _StoredArray(node)
  if 'kvstore' in node or node.get('driver') == 'cast':
    return _ZarrArray(directory, node)
  return {key: _readers(directory, child) for key, child in node.items()}
