"""Kernels in the type of the activations, for decoding.

Training keeps parameters in float32 and rounds them whenever they are used. A
decoder reads them for every token, and does nothing else for long: kept in
bfloat16 they are half the bytes, and the numbers are the same.
"""

from collections.abc import Mapping
from typing import Any

import jax

from calm_jax.t5 import network

_STACKS = ('encoder', 'decoder')
_KERNEL = 'kernel'
# Computes in float32 whatever the network does.
_FLOAT32_MODULES = ('logits_dense',)


def round_kernels(
  params: Mapping[str, Any], config: network.T5Config
) -> Mapping[str, Any]:
  """Parameters whose kernels have the type that they are used in.

  Embeddings and `logits_dense`, which make float32 logits, norms, biases and
  exit classifiers stay as they are.

  Args:
    params: of `network.Transformer`.
    config: whose `dtype` is that of the activations.
  """

  def rounded(path, array):
    names = [key.key for key in path]
    is_used_rounded = names[-1] == _KERNEL and not (
      set(names) & set(_FLOAT32_MODULES)
    )
    return array.astype(config.dtype) if is_used_rounded else array

  return {
    name: jax.tree_util.tree_map_with_path(rounded, part)
    if name in _STACKS
    else part
    for name, part in params.items()
  }
