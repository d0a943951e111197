"""Import of checkpoints that T5X writes with Orbax, its default since 2023.

    checkpoint_N/state/  {'target': parameters, 'state': optimizer state}

As with T5X's native ones (`from_t5x`), nothing is renamed, optimizer state is
left aside, and nothing of T5X is needed.
"""

import logging
import pathlib
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from calm_jax import errors
from calm_jax.checkpoints import param_trees
from calm_jax.t5 import network

_STATE = 'state'
_TARGET = 'target'


def is_checkpoint(checkpoint: pathlib.Path) -> bool:
  """Whether T5X has written it, as far as its index tells."""
  if (checkpoint / 'digests').exists():  # `calm train`'s, by `orbax_io`.
    return False
  try:
    return _TARGET in _index(checkpoint)
  except Exception:  # Not Orbax's at all, or damaged: others say so.
    logging.debug('Not T5X through Orbax: %s', checkpoint, exc_info=True)
    return False


def load_params(
  checkpoint: pathlib.Path, config: network.T5Config
) -> dict[str, Any]:
  """Reads the parameters, with exit classifiers where there are any.

  Args:
    checkpoint: a `checkpoint_N` directory for which `is_checkpoint` is true.
    config: the network that they are for.

  Returns:
    Nested dict of float32 NumPy arrays.

  Raises:
    DataError: a part is missing or damaged, or the parameters are not those of
      the network; each is named.
  """
  index = _index(checkpoint)[_TARGET]
  param_trees.check_same(
    {
      name: tuple(leaf.shape)
      for name, leaf in param_trees.of_network(
        param_trees.flatten(index)
      ).items()
    },
    param_trees.expected_shapes(config),
    str(checkpoint),
  )
  template = {
    _TARGET: jax.tree.map(
      lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), index
    )
  }
  as_numpy = ocp.RestoreArgs(restore_type=np.ndarray, dtype=np.float32)
  restore = ocp.args.PyTreeRestore(
    item=template,
    restore_args=jax.tree.map(lambda _: as_numpy, template),
    partial_restore=True,
  )
  try:
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
      return checkpointer.restore(checkpoint / _STATE, args=restore)[_TARGET]
  except Exception as error:  # Orbax lets many types through.
    raise errors.DataError(
      f'{checkpoint} is damaged and cannot be read: {str(error)[:300]}. Copy it'
      ' again, or take another one.'
    ) from error


def _index(checkpoint: pathlib.Path) -> dict[str, Any]:
  """The tree of the checkpoint's arrays, with shapes and types as leaves."""
  with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
    return checkpointer.metadata(checkpoint / _STATE).item_metadata.tree
