"""SHA-256 of arrays: what a checkpoint claims, against what was read from it.

Orbax and tensorstore give back an array whose bytes were damaged on disk
without an error; comparing digests of the values themselves finds it.
"""

import hashlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from calm_jax.checkpoints import param_trees


def array_digest(array: np.ndarray) -> str:
  """SHA-256 of an array's bytes in C order."""
  return hashlib.sha256(_bytes(array)).hexdigest()


def model_digest(params: Any) -> str:
  """SHA-256 over names, types, shapes and bytes of all parameters.

  Two models with this digest in common give the same outputs; dumps carry it.

  Args:
    params: nested dict of arrays, on any device.

  Returns:
    64 hexadecimal digits.
  """
  digest = hashlib.sha256()
  for name, leaf in sorted(param_trees.flatten(params).items()):
    array = np.asarray(jax.device_get(leaf))
    digest.update(f'{name} {array.dtype} {array.shape}\n'.encode())
    digest.update(_bytes(array))
  return digest.hexdigest()


def describe(named: Mapping[str, np.ndarray]) -> dict[str, dict[str, Any]]:
  """Shape, type and digest of each array, as JSON can hold them."""
  return {
    name: {
      'shape': list(array.shape),
      'dtype': str(array.dtype),
      'sha256': array_digest(array),
    }
    for name, array in named.items()
  }


def different(
  named: Mapping[str, np.ndarray],
  described: Mapping[str, Mapping[str, Any]],
) -> list[str]:
  """Names of the arrays whose bytes are not those described."""
  return [
    name
    for name, array in named.items()
    if array_digest(array) != described[name]['sha256']
  ]


def _bytes(array: np.ndarray) -> memoryview:
  return memoryview(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
