"""Kernels that read the same input, joined for decoding.

One product with [query | key | value] is faster than three when there is one
token per row: the time of a small product is mostly its start. Checkpoints and
training keep T5X's separate kernels; this layout is derived from them once per
loaded model, and modules that find it in their collection `joined` use it.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

# One tree per decoder layer, in its order.
Joined = tuple[Mapping[str, Any], ...]


def join_kernels(params: Mapping[str, Any], num_decoder_layers: int) -> Joined:
  """Joined kernels of every decoder layer.

  Args:
    params: parameters of `network.Transformer`.
    num_decoder_layers: of the network.

  Returns:
    For each layer the collection `joined` of `network.DecoderLayer`:
    `query_key_value` [embed, 3 * heads * head_dim], and `wi` [embed, inputs *
    mlp] where the block has several inputs.
  """
  decoder = params['decoder']
  return tuple(
    _join_layer(decoder[f'layers_{i}']) for i in range(num_decoder_layers)
  )


def _join_layer(params: Mapping[str, Any]) -> Mapping[str, Any]:
  attention = params['self_attention']
  joined = {
    'self_attention': {
      'query_key_value': _concatenated(
        attention[name] for name in ('query', 'key', 'value')
      )
    }
  }
  inputs = sorted(name for name in params['mlp'] if name.startswith('wi_'))
  if inputs:
    joined['mlp'] = {'wi': _concatenated(params['mlp'][x] for x in inputs)}
  return joined


def _concatenated(modules) -> jax.Array:
  return jnp.concatenate([module['kernel'] for module in modules], axis=1)
