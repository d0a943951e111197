"""Tokens that outputs start with: [batch, prompt] int32, 0 after them.

The full model reads a prompt. It is part of the output, but not of its
log-probability, and counts no layers.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from calm_jax import errors


def checked(
  prompts: Int[Array, 'batch prompt'] | None,
  eos_id: int | Int[Array, ''],
  max_decode_length: int,
) -> Int[Array, 'batch prompt'] | None:
  """Prompts up to their first EOS or 0, after which the model is free.

  Raises:
    ConfigError: they are wider than an output.
  """
  if prompts is None or prompts.shape[1] == 0:
    return None
  if prompts.shape[1] > max_decode_length:
    raise errors.ConfigError(
      f'Prompts must be at most as wide as the longest output of'
      f' {max_decode_length} tokens, got {prompts.shape[1]} columns; leave out'
      ' columns of padding, or raise max_decode_length.'
    )
  goes_on = (prompts != 0) & (prompts != eos_id)
  # What a host hands in stays there.
  xp = jnp if isinstance(goes_on, jax.Array) else np
  return xp.where(xp.cumprod(goes_on, axis=1) > 0, prompts, 0)


def token_at(
  prompts: Int[Array, 'batch prompt'], positions: Int[Array, ' batch']
) -> Int[Array, ' batch']:
  """The token that each row's prompt has at its position; 0 after a prompt."""
  length = prompts.shape[1]
  at = jnp.minimum(positions, length - 1)[:, None]
  column = jnp.take_along_axis(prompts, at, axis=1)[:, 0]
  return jnp.where(positions < length, column, 0)
