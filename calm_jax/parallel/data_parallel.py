"""Rows of a batch on several devices.

Where a device holds the whole model, it decodes its share of the rows in a loop
of its own: nothing is exchanged until all are done, so that none waits for the
exits of another's tokens. A model that is divided among devices is decoded in
one loop of them all.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from jax import sharding

from calm_jax.parallel import partitioning

_ROWS = sharding.PartitionSpec('data')
_REPLICATED = sharding.PartitionSpec()


class RowDivision:
  """Divides the first axis of arrays among devices.

  Attributes:
    num_devices: how many.
  """

  def __init__(self, devices: Sequence[jax.Device]):
    self.num_devices = len(devices)
    self._mesh = sharding.Mesh(np.array(devices), ('data',))

  def place(self, params: Any) -> Any:
    """The parameters on every device."""
    everywhere = sharding.NamedSharding(self._mesh, _REPLICATED)
    return jax.device_put(params, everywhere)

  def pad(self, rows: np.ndarray) -> np.ndarray:
    """[n, ...] -> rows of zeros appended, so that devices have equal shares."""
    return pad(rows, self.num_devices)

  def divide(
    self, function: Callable[[Any, Any], Any]
  ) -> Callable[[Any, Any], Any]:
    """`function(common, rows)` run by each device on its share of the rows.

    Args:
      function: traceable; treats each row by itself, and gives for n rows a
        multiple of n in their order. Scalars among `rows` are every row's.

    Returns:
      The same function of all rows, [n, ...] for a multiple n of `num_devices`.
    """
    if self.num_devices == 1:
      return function

    def divided(common, rows):
      return jax.shard_map(
        function,
        mesh=self._mesh,
        in_specs=(_REPLICATED, jax.tree.map(_axes_of, rows)),
        out_specs=_ROWS,
        # Loops of different lengths carry what is the same on no two devices.
        check_vma=False,
      )(common, rows)

    return divided


class DividedModel:
  """Rows over the mesh's axis 'data', parameters over 'model'.

  The same interface as `RowDivision`.
  """

  def __init__(
    self, partitioner: partitioning.PjitPartitioner, module: nn.Module
  ):
    self.num_devices = partitioner.mesh.size
    self._partitioner = partitioner
    self._module = module

  def place(self, params: Any) -> Any:
    """The parameters, divided as for training."""
    return self._partitioner.place(self._module, params)

  def pad(self, rows: np.ndarray) -> np.ndarray:
    """[n, ...] -> rows of zeros appended, so that shares are equal."""
    return pad(rows, self._partitioner.mesh.shape[partitioning.DATA])

  def divide(
    self, function: Callable[[Any, Any], Any]
  ) -> Callable[[Any, Any], Any]:
    """`function(common, rows)`, its rows divided; XLA places the rest."""

    mesh = self._partitioner.mesh

    def divided(common, rows):
      shardings = jax.tree.map(
        lambda x: sharding.NamedSharding(mesh, _axes_of(x)), rows
      )
      return function(common, jax.lax.with_sharding_constraint(rows, shardings))

    return divided


def _axes_of(array: jax.Array) -> sharding.PartitionSpec:
  return _ROWS if array.ndim else _REPLICATED


def pad(rows: np.ndarray, shares: int) -> np.ndarray:
  """[n, ...] -> rows of zeros appended, up to a multiple of `shares`."""
  rows = np.asarray(rows)
  missing = -len(rows) % shares
  return np.pad(rows, ((0, missing), *((0, 0),) * (rows.ndim - 1)))
