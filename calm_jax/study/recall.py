"""Where the full model's token ranks in each layer's logits.

Decides which K is safe for top-k propagation: a token that is not among the K
best of the layer at which they are taken can never be chosen early.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Int

_ROWS = 16  # rows whose logits of one layer are held at a time


def token_ranks(
  module: nn.Module,
  params: Any,
  encoder_input_tokens: Int[Array, 'rows source'],
  tokens: Int[Array, 'rows target'],
) -> np.ndarray:
  """Ranks of the given tokens in every layer's logits, teacher-forced.

  Args:
    module: `t5.network.Transformer`.
    params: its parameters.
    encoder_input_tokens: the sources; 0 is padding.
    tokens: the full model's output; 0 is padding.

  Returns:
    [layers, rows, target] int32: how many tokens have a larger logit than the
    given one, or an equal one and a lower id. 0 is the best; -1 is padding.
  """
  ranks = [
    jax.device_get(_ranks(module, params, encoder_input_tokens[at], tokens[at]))
    for at in _slices(len(tokens))
  ]
  return np.concatenate(ranks, axis=1)


def _slices(count: int):
  return [slice(i, i + _ROWS) for i in range(0, count, _ROWS)]


@functools.partial(jax.jit, static_argnums=0)
def _ranks(module, params, source, tokens):
  apply = functools.partial(module.apply, {'params': params})
  encoded = apply(source, method='encode')
  inputs = jnp.pad(tokens[:, :-1], ((0, 0), (1, 0)))
  states = apply(encoded, source, inputs, tokens, method='decode_all_layers')

  def of_layer(hidden):
    logits = apply(hidden, method='logits_from_hidden')
    ids = jnp.arange(logits.shape[-1])
    own = jnp.take_along_axis(logits, tokens[..., None], axis=-1)
    before = (logits > own) | ((logits == own) & (ids < tokens[..., None]))
    return jnp.where(tokens > 0, jnp.sum(before, axis=-1), -1)

  return jax.lax.map(of_layer, states)
