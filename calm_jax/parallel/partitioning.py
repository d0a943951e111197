"""Parameters and batches on many devices, with T5X's names and rules.

    logical axes of a parameter --rules--> axes of the mesh ('data', 'model')

The rows of a batch are divided over 'data'; what the rules send to 'model' is
divided over `num_partitions` devices. XLA adds the communication. With one
device nothing is placed, wrapped or compiled again.

The layout follows the partitioner of T5X (Roberts et al. 2022, Sec. 2.1).
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.linen import partitioning as nn_partitioning
from jax.experimental import mesh_utils, multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from calm_jax import errors

LogicalAxisRules = Sequence[tuple[str, str | None]]

DATA, MODEL = 'data', 'model'


def standard_logical_axis_rules(
  activation_partitioning_dims: int = 1,
  parameter_partitioning_dims: int = 1,
  additional_rules: LogicalAxisRules = (),
) -> LogicalAxisRules:
  """T5X's rules: which logical axis is divided over which axis of the mesh.

  Args:
    activation_partitioning_dims: with 2, 'embed' is divided over 'model' where
      no other axis of the array is.
    parameter_partitioning_dims: with 2, 'embed' is divided over 'data', so that
      a device keeps only a share of each parameter.
    additional_rules: appended; the first rule that fits an axis wins.

  Raises:
    ConfigError: a number that is neither 1 nor 2.
  """
  for name, dims in (
    ('activation_partitioning_dims', activation_partitioning_dims),
    ('parameter_partitioning_dims', parameter_partitioning_dims),
  ):
    if dims not in (1, 2):
      raise errors.ConfigError(f'{name} must be 1 or 2, got {dims!r}.')
  embed: list[tuple[str, str | None]] = []
  if activation_partitioning_dims == 2:
    embed.append(('embed', MODEL))
  if parameter_partitioning_dims == 2:
    embed.append(('embed', DATA))
  whole = ('kv', 'relpos_buckets', 'abspos_buckets', 'length', 'layers')
  whole += ('stack', 'mlp_activations')
  return (
    ('batch', DATA),
    ('vocab', MODEL),
    ('mlp', MODEL),
    ('heads', MODEL),
    ('joined_kv', MODEL),
    *(embed or [('embed', None)]),
    *((name, None) for name in whole),
    *additional_rules,
  )


@dataclasses.dataclass(frozen=True)
class DataLayout:
  """What one host reads of the data, with T5X's names.

  Attributes:
    shard_id: its share, from 0.
    num_shards: shares in all; 1 where the mesh does not let hosts share.
  """

  shard_id: int
  num_shards: int


class PjitPartitioner:
  """Divides a training state and its batches among devices.

  Attributes:
    num_partitions: devices that one copy of the parameters is divided over.
    mesh: axes 'data' and 'model', of sizes devices / num_partitions and
      num_partitions.
  """

  def __init__(
    self,
    num_partitions: int = 1,
    logical_axis_rules: LogicalAxisRules | None = None,
    devices: Sequence[jax.Device] | None = None,
  ):
    """Lays out the devices.

    Args:
      num_partitions: see above; must divide the number of devices.
      logical_axis_rules: `standard_logical_axis_rules()` if None.
      devices: all devices of all hosts if None.

    Raises:
      ConfigError: num_partitions is no divisor of the number of devices.
    """
    devices = list(jax.devices() if devices is None else devices)
    _check_partitions(num_partitions, devices)
    self.num_partitions = num_partitions
    self.mesh = Mesh(
      mesh_utils.create_device_mesh(
        (len(devices) // num_partitions, num_partitions), devices
      ),
      (DATA, MODEL),
    )
    self._rules = tuple(
      standard_logical_axis_rules()
      if logical_axis_rules is None
      else logical_axis_rules
    )
    # Tracing a module takes seconds.
    self._last_module: nn.Module | None = None
    self._last_specs: dict = {}

  @property
  def is_single(self) -> bool:
    """Whether there is but one device, where everything is left as it is."""
    return self.mesh.size == 1

  def describe(self) -> str:
    """The mesh in words, for logs."""
    kind = self.mesh.devices.flat[0].device_kind
    return (
      f'{self.mesh.size} devices ({kind}): data {self.mesh.shape[DATA]},'
      f' model {self.mesh.shape[MODEL]}'
    )

  def shardings(self, module: nn.Module, tree: Any) -> Any:
    """The placement of every array of a tree.

    An array that bears a parameter's name and has its shape, as an optimizer's
    accumulators do, lies as the parameter. Others, among them Adafactor's
    factored accumulators, which are vectors, are whole on every device; so is
    an axis whose size is no multiple of its mesh axis.

    Args:
      module: `t5.network.Transformer`, whose parameters carry logical axes.
      tree: arrays or `jax.ShapeDtypeStruct`.

    Returns:
      The same tree of `NamedSharding`.
    """
    specs = self._param_specs(module)

    def sharding_of(path, leaf):
      names = tuple(map(_key_name, path))
      for start in range(len(names)):
        shape, spec = specs.get(names[start:], (None, None))
        if shape == leaf.shape:
          return NamedSharding(self.mesh, spec)
      return self._replicated

    return jax.tree_util.tree_map_with_path(sharding_of, tree)

  def place(self, module: nn.Module, tree: Any) -> Any:
    """Copies a tree of NumPy arrays, the same on all hosts, to its devices."""
    if self.is_single:
      return jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), tree)
    return jax.tree.map(_put, tree, self.shardings(module, tree))

  def create(
    self, module: nn.Module, function: Callable[..., Any], *args: Any
  ) -> Any:
    """`function(*args)`, each result made where it is to lie.

    Args:
      module: as for `shardings`.
      function: traceable; its result depends on the arguments alone.
      *args: of the function; trees of parameters have been placed.
    """
    if self.is_single:
      return function(*args)
    shardings = self.shardings(module, jax.eval_shape(function, *args))
    return jax.jit(function, out_shardings=shardings)(*args)

  def partition_step(
    self, module: nn.Module, step: Callable[..., Any], state: Any
  ) -> Callable[[Any, Any], Any]:
    """A compiled (state, batch) -> (state, sums) that keeps the placement.

    Args:
      module: as for `shardings`.
      step: the step for one device.
      state: a placed state, which the result donates.
    """
    if self.is_single:
      return step
    shardings = self.shardings(module, state)
    return jax.jit(
      step,
      in_shardings=(shardings, self._rows),
      out_shardings=(shardings, self._replicated),
      donate_argnums=0,
    )

  def put_batch(self, batch: Mapping[str, Any]) -> Mapping[str, Any]:
    """Divides the rows of a batch, which is the same on all hosts.

    Raises:
      ConfigError: the rows do not divide evenly.
    """
    self.check_batch(batch)
    if self.is_single:
      return batch
    return {name: _put(rows, self._rows) for name, rows in batch.items()}

  def put_share(self, batch: Mapping[str, Any]) -> Mapping[str, Any]:
    """Joins the rows that each host has read by `get_data_layout`."""
    return {
      name: jax.make_array_from_process_local_data(self._rows, rows)
      for name, rows in batch.items()
    }

  def get_data_layout(self) -> DataLayout:
    """The share of each batch that this host reads.

    Hosts that hold parts of the same copy of the parameters read the same rows.
    """
    devices = self.mesh.devices
    rows_of = {}
    for row, in_row in enumerate(devices):
      for process in {device.process_index for device in in_row}:
        rows_of.setdefault(process, []).append(row)
    shares = sorted({tuple(rows) for rows in rows_of.values()})
    sizes = {len(rows) for rows in shares}
    if len(sizes) > 1 or sum(map(len, shares)) != len(devices):
      return DataLayout(0, 1)
    mine = tuple(rows_of[jax.process_index()])
    return DataLayout(shares.index(mine), len(shares))

  def check_batch(self, batch: Mapping[str, Any]) -> None:
    """Raises ConfigError where the rows do not divide among the devices."""
    self.check_batch_size(len(next(iter(batch.values()))))

  def check_batch_size(self, size: int) -> None:
    """Raises ConfigError where so many rows do not divide among the devices."""
    shares = self.mesh.shape[DATA]
    if size % shares:
      below = size - size % shares
      nearest = [str(n) for n in (below, below + shares) if n]
      raise errors.ConfigError(
        f'Batch size ({size}) must be divisible by corresponding data mesh size'
        f' ({shares}), which is {self.mesh.size} devices / num_partitions'
        f' {self.num_partitions}. The nearest valid BATCH_SIZE:'
        f' {" or ".join(nearest)}.'
      )

  @functools.cached_property
  def _replicated(self) -> NamedSharding:
    return NamedSharding(self.mesh, PartitionSpec())

  @functools.cached_property
  def _rows(self) -> NamedSharding:
    spec = nn_partitioning.logical_to_mesh_axes(('batch',), self._rules)
    return NamedSharding(self.mesh, spec)

  def _param_specs(self, module) -> dict[tuple, tuple[tuple, PartitionSpec]]:
    """Path of a parameter -> its shape and mesh axes."""
    if module is not self._last_module:
      shapes, axes = _params_with_axes(module)
      self._last_module = module
      self._last_specs = {
        path: (shape, self._mesh_axes(axes[path], shape))
        for path, shape in shapes.items()
      }
    return self._last_specs

  def _mesh_axes(self, names, shape) -> PartitionSpec:
    spec = nn_partitioning.logical_to_mesh_axes(tuple(names), self._rules)
    return PartitionSpec(
      *(
        axis if axis and size % self.mesh.shape[axis] == 0 else None
        for axis, size in zip(spec, shape, strict=True)
      )
    )


def to_host(tree: Any) -> Any:
  """NumPy copies of whole arrays, on every host; all hosts must call it."""

  def fetch(leaf):
    if getattr(leaf, 'is_fully_addressable', True):
      return np.array(leaf)
    if leaf.is_fully_replicated:
      return np.array(leaf.addressable_data(0))
    return np.asarray(multihost_utils.process_allgather(leaf, tiled=True))

  return jax.tree.map(fetch, tree)


def _check_partitions(num_partitions: int, devices: list) -> None:
  count = len(devices)
  if type(num_partitions) is int and num_partitions > 0:
    if count % num_partitions == 0:
      return
  valid = [str(n) for n in range(1, count + 1) if count % n == 0]
  shown = ', '.join(str(device) for device in devices[:8])
  more = f' and {count - 8} more' if count > 8 else ''
  raise errors.ConfigError(
    f'num_partitions must divide the number of devices, which is {count}, got'
    f' {num_partitions!r}. Valid: {", ".join(valid)}. Devices: {shown}{more}.'
  )


def _params_with_axes(module: nn.Module) -> tuple[dict, dict]:
  """Paths of parameters -> shapes, and -> logical axes; nothing is computed."""
  tokens = jnp.ones((1, 1), jnp.int32)
  variables = jax.eval_shape(
    lambda key: module.init(key, tokens, tokens, tokens, enable_dropout=False),
    jax.random.key(0),
  )
  axes = nn_partitioning.get_axis_names(variables['params_axes'])
  return (
    {path: leaf.shape for path, leaf in _by_path(variables['params'])},
    dict(_by_path(axes)),
  )


def _by_path(tree):
  leaves, _ = jax.tree_util.tree_flatten_with_path(
    tree, is_leaf=lambda node: isinstance(node, PartitionSpec)
  )
  return [(tuple(map(_key_name, path)), leaf) for path, leaf in leaves]


def _key_name(key: Any) -> str:
  for kind in ('key', 'name', 'idx'):
    if hasattr(key, kind):
      return str(getattr(key, kind))
  return str(key)


def _put(leaf: Any, sharding: NamedSharding) -> jax.Array:
  leaf = np.asarray(leaf)
  return jax.make_array_from_callback(
    leaf.shape,
    sharding,
    # A copy: a step donates its buffers, and XLA must not write into memory
    # that the checkpoint library may still hold.
    lambda index: np.array(leaf[index]),
  )
