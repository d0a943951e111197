"""T5X's native checkpoints, written as T5X writes small arrays."""

import msgpack
import numpy as np

from calm_jax.checkpoints import from_t5x, param_trees


def pack(array) -> msgpack.ExtType:
  """As Flax packs an array."""
  array = np.asarray(array)
  fields = (array.shape, array.dtype.name, array.tobytes())
  return msgpack.ExtType(1, msgpack.packb(fields))


def write_native(directory, arrays) -> from_t5x.Checkpoint:
  """Makes `directory`, with all arrays in the index; opened."""
  tree = param_trees.unflatten({x: pack(y) for x, y in arrays.items()})
  directory.mkdir()
  (directory / 'checkpoint').write_bytes(
    msgpack.packb({'version': 3, 'optimizer': tree})
  )
  return from_t5x.open_checkpoint(directory)
