"""Import of T5X's checkpoints, both formats that T5X writes.

    checkpoint_N/checkpoint                 native: msgpack index, small arrays
    checkpoint_N/target.decoder.../.zarray  one zarr directory per array
    checkpoint_N/state/_METADATA            Orbax, T5X's default since 2023

Both hold one tree: `target` is the parameters, by our own names, so nothing is
renamed; `state` is the optimizer's step and accumulators (`t5x_adafactor`).
Nothing of T5X or TensorFlow is needed.
"""

import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import numpy as np

from calm_jax import errors
from calm_jax.checkpoints import (
  finding,
  orbax_io,
  param_trees,
  sha256sums,
  sizes_of_arrays,
  t5x_native,
)
from calm_jax.t5 import network

_TARGET = 'target/'


class Checkpoint(Protocol):
  """An open T5X checkpoint, its arrays not yet read.

  Attributes:
    directory: where it is.
    shapes: of all arrays, by names such as 'target/encoder/...' and
      'state/step'.
  """

  directory: pathlib.Path
  shapes: Mapping[str, tuple[int, ...]]

  def read(self, names: Iterable[str]) -> dict[str, np.ndarray]:
    """Those arrays; raises DataError where one is damaged."""


class _OrbaxCheckpoint:
  """T5X's tree in Orbax's layout."""

  def __init__(self, directory: pathlib.Path):
    self.directory = directory
    self._leaves = orbax_io.read_metadata(directory)
    self.shapes = {name: leaf.shape for name, leaf in self._leaves.items()}

  def read(self, names: Iterable[str]) -> dict[str, np.ndarray]:
    template = param_trees.unflatten({x: self._leaves[x] for x in names})
    return param_trees.flatten(orbax_io.read_arrays(self.directory, template))


def is_t5x(directory: pathlib.Path) -> bool:
  """Whether a checkpoint's own directory is one of T5X, of either format."""
  return t5x_native.is_native(directory) or orbax_io.is_foreign(directory)


def open_checkpoint(path: str | os.PathLike) -> Checkpoint:
  """Reads what is in a checkpoint, but no arrays.

  Args:
    path: a `checkpoint_N` directory, or a directory of such ones, whose newest
      is taken.

  Raises:
    DataError: not such a checkpoint, or its index is damaged.
  """
  directory = finding.find_checkpoint(path)
  sha256sums.check(directory)
  if orbax_io.is_foreign(directory):
    checkpoint = _OrbaxCheckpoint(directory)
  else:
    checkpoint = t5x_native.NativeCheckpoint(directory)
  if not any(name.startswith(_TARGET) for name in checkpoint.shapes):
    shown = ', '.join(sorted(checkpoint.shapes)[:3])
    raise errors.DataError(
      f'{directory} was not written by calm_jax (it has no digests) nor by T5X'
      f' (it has no arrays under target/, but {shown or "none at all"}).'
    )
  return checkpoint


def load_config(path: str | os.PathLike) -> network.T5Config:
  """The network's sizes, told from the shapes of its arrays.

  Raises:
    DataError: as `load_params`.
  """
  checkpoint = open_checkpoint(path)
  return sizes_of_arrays.config_of(
    _target_shapes(checkpoint), str(checkpoint.directory)
  )


def load_params(
  path: str | os.PathLike, config: network.T5Config
) -> dict[str, Any]:
  """Reads the parameters of a T5X checkpoint.

  Args:
    path: as for `open_checkpoint`.
    config: the network that they are for.

  Returns:
    Nested dict of float32 NumPy arrays, with the exit classifiers that our
    model trained under T5X, if there are any.

  Raises:
    DataError: not such a checkpoint, or a part of it is missing or damaged, or
      its parameters are not those of the network; each is named.
  """
  return read_params(open_checkpoint(path), config)


def read_params(
  checkpoint: Checkpoint, config: network.T5Config
) -> dict[str, Any]:
  """`load_params` of an open checkpoint."""
  shapes = _target_shapes(checkpoint)
  sizes_of_arrays.check_network(
    param_trees.of_network(shapes), config, str(checkpoint.directory)
  )
  arrays = checkpoint.read(_TARGET + name for name in shapes)
  return param_trees.unflatten(
    {
      name.removeprefix(_TARGET): array.astype(np.float32)
      for name, array in arrays.items()
    }
  )


def _target_shapes(checkpoint: Checkpoint) -> dict[str, tuple[int, ...]]:
  return {
    name.removeprefix(_TARGET): shape
    for name, shape in checkpoint.shapes.items()
    if name.startswith(_TARGET)
  }
