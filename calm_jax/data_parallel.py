"""Rows of a batch on several devices, each by itself.

Every device decodes its share of the rows in a loop of its own: nothing is
exchanged between them until all are done, so that none waits for the exits of
another's tokens.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax import sharding

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

  def replicate(self, tree: Any) -> Any:
    """The tree on every device."""
    return jax.device_put(tree, sharding.NamedSharding(self._mesh, _REPLICATED))

  def pad(self, rows: np.ndarray) -> np.ndarray:
    """[n, ...] -> rows of zeros appended, so that devices have equal shares."""
    rows = np.asarray(rows)
    missing = -len(rows) % self.num_devices
    return np.pad(rows, ((0, missing), *((0, 0),) * (rows.ndim - 1)))

  def divide(
    self, function: Callable[[Any, Any], Any]
  ) -> Callable[[Any, Any], Any]:
    """`function(common, rows)` run by each device on its share of the rows.

    Args:
      function: traceable; treats each row by itself, and gives for n rows a
        multiple of n in their order.

    Returns:
      The same function of all rows, [n, ...] for a multiple n of `num_devices`.
    """
    if self.num_devices == 1:
      return function
    return jax.shard_map(
      function,
      mesh=self._mesh,
      in_specs=(_REPLICATED, _ROWS),
      out_specs=_ROWS,
      # Loops of different lengths carry what is the same on no two devices.
      check_vma=False,
    )
