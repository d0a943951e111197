"""T5X's checkpoints in both of its formats, written as T5X writes them."""

import msgpack
import numpy as np
import orbax.checkpoint as ocp

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


def write_orbax(model_dir, step, tree) -> None:
  """Makes `model_dir/checkpoint_<step>` of the items that T5X gives Orbax."""
  options = ocp.CheckpointManagerOptions(
    step_prefix='checkpoint', enable_async_checkpointing=False
  )
  with ocp.CheckpointManager(model_dir, options=options) as manager:
    items = {'state': ocp.args.PyTreeSave(tree)}
    manager.save(step, args=ocp.args.Composite(**items))
