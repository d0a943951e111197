"""Tensors of a directory: model.safetensors, or shards with their index.

    model.safetensors                    all of them, or
    model.safetensors.index.json         {"weight_map": {tensor: shard}}
    model-00001-of-00002.safetensors     a shard

Pickled weights are refused: unpickling runs whatever code is in the file.
"""

import pathlib
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
import safetensors

from calm_jax import errors
from calm_jax.checkpoints import sha256sums
from calm_jax.records import json_records

SINGLE = 'model.safetensors'
INDEX = 'model.safetensors.index.json'
# The format's floating point types that are numbers by themselves; those of six
# bits and fewer, and F8_E8M0, mean something only with scales.
_DTYPES = {
  'F64': np.float64,
  'F32': np.float32,
  'F16': np.float16,
  'BF16': ml_dtypes.bfloat16,
  'F8_E4M3': ml_dtypes.float8_e4m3fn,
  'F8_E5M2': ml_dtypes.float8_e5m2,
  'F8_E4M3FNUZ': ml_dtypes.float8_e4m3fnuz,
  'F8_E5M2FNUZ': ml_dtypes.float8_e5m2fnuz,
}


def read_directory(directory: pathlib.Path) -> dict[str, np.ndarray]:
  """All tensors by name.

  Raises:
    DataError: there are none, a shard is missing or holds other tensors than
      the index says; as `parse`.
  """
  if (directory / SINGLE).is_file():
    return read_file(directory / SINGLE)
  if (directory / INDEX).is_file():
    return _read_shards(directory)
  raise errors.DataError(_nothing_to_read(directory))


def read_file(path: pathlib.Path) -> dict[str, np.ndarray]:
  """The tensors of one file.

  Raises:
    DataError: as `parse`, or the file is missing.
  """
  sha256sums.check(path.parent, [path.name])
  try:
    content = path.read_bytes()
  except OSError as error:
    raise errors.DataError(
      f'{path} cannot be read: {error.strerror or error}.'
    ) from error
  return parse(content, path)


def parse(content: bytes, path: pathlib.Path) -> dict[str, np.ndarray]:
  """The tensors of a file's content.

  safetensors' own arrays are left aside: which types they can have depends on
  its version and NumPy's.

  Args:
    content: of the file.
    path: its name, for messages.

  Raises:
    DataError: it is damaged, or a tensor has no floating point numbers.
  """
  try:
    found = safetensors.deserialize(content)
  except (safetensors.SafetensorError, ValueError, OverflowError) as error:
    raise errors.DataError(
      f'{path} is damaged or truncated ({len(content)} bytes: {error}), or has'
      f' a number type that safetensors {safetensors.__version__} does not know'
      ' yet (pip install -U safetensors).'
    ) from error
  return {name: _array(name, stored, path) for name, stored in found}


def _array(
  name: str, stored: Mapping[str, Any], path: pathlib.Path
) -> np.ndarray:
  if stored['dtype'] not in _DTYPES:
    raise errors.DataError(
      f'{path}: the tensor {name} must be of {", ".join(_DTYPES)}, got'
      f' {stored["dtype"]}; quantized weights are not read, give the original'
      ' ones.'
    )
  array = np.frombuffer(stored['data'], _DTYPES[stored['dtype']])
  return array.reshape(stored['shape'])


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
