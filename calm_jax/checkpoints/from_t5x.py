"""Import of T5X's native checkpoints: msgpack index and zarr directories.

    checkpoint_N/checkpoint                 small arrays, where others are
    checkpoint_N/target.decoder.../.zarray  one directory per array

Our parameter tree is T5X's, so nothing is renamed. Optimizer state is left
aside. Nothing of T5X or TensorFlow is needed.
"""

import os
import pathlib
from collections.abc import Mapping
from typing import Any

import msgpack
import numpy as np
import tensorstore

from calm_jax import errors
from calm_jax.checkpoints import orbax_io, param_trees
from calm_jax.t5 import network

# Flax's msgpack extension for an array: (shape, type name, bytes).
_ARRAY_EXTENSION = 1


def load_params(
  path: str | os.PathLike, config: network.T5Config
) -> dict[str, Any]:
  """Reads the parameters of a T5X checkpoint.

  Args:
    path: a `checkpoint_N` directory, or a directory of such ones, whose newest
      is taken.
    config: the network that they are for.

  Returns:
    Nested dict of float32 NumPy arrays.

  Raises:
    DataError: not such a checkpoint, or a part of it is missing or damaged, or
      its parameters are not those of the network; each is named.
  """
  directory = orbax_io.find_checkpoint(path)
  entries = param_trees.flatten(_read_index(directory))
  param_trees.check_same(
    {name: entry.shape for name, entry in entries.items()},
    param_trees.expected_shapes(config),
    str(directory),
  )
  return param_trees.unflatten(
    {name: entry.read().astype(np.float32) for name, entry in entries.items()}
  )


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
    # Only the last part of the path: the checkpoint may have been moved, and
    # must not make us read elsewhere.
    name = pathlib.PurePosixPath(spec['kvstore']['path']).name
    self._directory = directory / name
    self.shape = tuple(spec['metadata']['shape'])

  def read(self) -> np.ndarray:
    try:
      store = tensorstore.open(
        {
          'driver': 'zarr',
          'kvstore': {'driver': 'file', 'path': f'{self._directory}/'},
          # Otherwise a chunk that was not copied reads as zeros.
          'fill_missing_data_reads': False,
        },
        open=True,
      ).result()
      array = store.read().result()
    except ValueError as error:  # tensorstore raises nothing else
      raise errors.DataError(
        f'{self._directory} is missing or damaged; copy the checkpoint again'
        f' ({str(error)[:200]}).'
      ) from error
    if array.shape != self.shape:
      raise errors.DataError(
        f'{self._directory} has shape {array.shape}, but the index of its'
        f' checkpoint says {self.shape}; copy the checkpoint again.'
      )
    return array


def _read_index(directory: pathlib.Path) -> dict[str, Any]:
  """The tree under 'target', with array readers as leaves."""
  path = directory / 'checkpoint'
  if not path.is_file():
    raise errors.DataError(
      f'{directory} is not a native T5X checkpoint: it has no file named'
      ' checkpoint.'
    )
  content = path.read_bytes()
  if b'model_checkpoint_path' in content[:200]:
    raise errors.DataError(
      f'{directory} is a TensorFlow checkpoint of the Mesh TensorFlow T5;'
      ' convert it with T5X (convert_tf_checkpoint) first.'
    )
  try:
    tree = msgpack.unpackb(
      content, raw=False, strict_map_key=False, ext_hook=_unpack_array
    )
    return _readers(directory, tree['optimizer']['target'])
  except errors.DataError:
    raise
  except Exception as error:  # damaged bytes fail in any way they like
    raise errors.DataError(
      f'{path} is not a T5X checkpoint index, or it is truncated'
      f' ({len(content)} bytes, {type(error).__name__}: {error}).'
    ) from error


def _unpack_array(code: int, data: bytes) -> np.ndarray:
  if code != _ARRAY_EXTENSION:
    raise ValueError(f'unknown msgpack extension {code}')
  shape, dtype, buffer = msgpack.unpackb(data, raw=False)
  return np.frombuffer(buffer, dtype=np.dtype(dtype)).reshape(shape)


def _readers(directory: pathlib.Path, node: Any) -> Any:
  if isinstance(node, np.ndarray):
    return _StoredArray(node)
  if 'kvstore' in node:
    return _ZarrArray(directory, node)
  return {key: _readers(directory, child) for key, child in node.items()}
