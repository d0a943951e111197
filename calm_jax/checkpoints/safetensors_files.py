"""Tensors of a directory: model.safetensors, or shards with their index.

    model.safetensors                    all of them, or
    model.safetensors.index.json         {"weight_map": {tensor: shard}}
    model-00001-of-00002.safetensors     a shard

Pickled weights are refused: unpickling runs whatever code is in the file.
"""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from calm_jax import errors
from calm_jax.checkpoints import sha256sums
from calm_jax.records import json_records

SINGLE = 'model.safetensors'
INDEX = 'model.safetensors.index.json'
_FLOATING = ('float16', 'bfloat16', 'float32', 'float64')


def read_directory(directory: pathlib.Path) -> dict[str, np.ndarray]:
  """All tensors by name.

  Raises:
    DataError: there are none, a shard is missing, or one is damaged, holds
      other tensors than the index says, or integers.
  """
  if (directory / SINGLE).is_file():
    return read_file(directory / SINGLE)
  if (directory / INDEX).is_file():
    return _read_shards(directory)
  raise errors.DataError(_nothing_to_read(directory))


def read_file(path: pathlib.Path) -> dict[str, np.ndarray]:
  """The tensors of one file.

  Raises:
    DataError: it is missing or damaged, or a tensor is of integers.
  """
  sha256sums.check(path.parent, [path.name])
  try:
    tensors = safetensors.numpy.load_file(path)
  except (
    safetensors.SafetensorError,
    OSError,
    ValueError,
    KeyError,  # a type that NumPy does not have
    OverflowError,
  ) as error:
    size = path.stat().st_size if path.is_file() else 0
    raise errors.DataError(
      f'{path} is damaged or truncated ({size} bytes: {error}).'
    ) from error
  for name, tensor in tensors.items():
    if tensor.dtype.name not in _FLOATING:
      raise errors.DataError(
        f'{path}: the tensor {name} must be of {", ".join(_FLOATING)}, got'
        f' {tensor.dtype.name}; quantized weights are not read, give the'
        ' original ones.'
      )
  return tensors


def _read_shards(directory: pathlib.Path) -> dict[str, np.ndarray]:
  weight_map = _weight_map(directory / INDEX)
  missing = [
    shard
    for shard in sorted(set(weight_map.values()))
    if not (directory / shard).is_file()
  ]
  if missing:
    raise errors.DataError(
      f'{directory} lacks {len(missing)} of the shards that {INDEX} names:'
      f' {", ".join(missing)}; copy or download them.'
    )
  tensors = {}
  for shard in sorted(set(weight_map.values())):
    found = read_file(directory / shard)
    expected = {name for name, where in weight_map.items() if where == shard}
    if found.keys() != expected:
      different = sorted(found.keys() ^ expected)
      raise errors.DataError(
        f'{directory / shard} must hold the tensors that {INDEX} lists for'
        f' it, but differs in {", ".join(different[:5])}; the files belong to'
        ' different models.'
      )
    tensors |= found
  return tensors


def _weight_map(path: pathlib.Path) -> Mapping[str, str]:
  fields: Any = json_records.read_json(path)
  weight_map = fields.get('weight_map') if isinstance(fields, dict) else None
  if not isinstance(weight_map, dict) or not all(
    isinstance(shard, str) and pathlib.PurePath(shard).name == shard
    for shard in weight_map.values()
  ):
    raise errors.DataError(
      f'{path} must hold a weight_map from tensors to names of files beside'
      ' it; copy or download it again.'
    )
  return weight_map


def _nothing_to_read(directory: pathlib.Path) -> str:
  names = sorted(child.name for child in directory.iterdir())
  start = (
    f'{directory} has no {SINGLE} (it holds {", ".join(names[:10])}'
    f'{", ..." if len(names) > 10 else ""})'
  )
  if any(name.endswith(('.bin', '.pt', '.pth', '.ckpt')) for name in names):
    return (
      f'{start}; pickled weights (.bin) are never read, because unpickling'
      ' runs what is in them. Convert them where transformers and torch are:'
      f' AutoModelForSeq2SeqLM.from_pretrained({str(directory)!r})'
      '.save_pretrained(NEW_FOLDER, safe_serialization=True).'
    )
  if any(name in ('tf_model.h5', 'flax_model.msgpack') for name in names):
    return (
      f'{start}; weights of TensorFlow (.h5) and Flax (.msgpack) are not'
      f' read: take {SINGLE} of the same model.'
    )
  return f'{start}; copy or download the whole model.'
