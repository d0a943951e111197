"""What callers may ask of a decoding, checked before anything is compiled.

Values that are traced cannot be checked.
"""

import jax
import jax.numpy as jnp
import numpy as np

from calm_jax import errors
from calm_jax.early_exit.engine import sampling

EOS_ID = 1


def check_thresholds(thresholds: float | np.ndarray | jax.Array) -> None:
  """Raises ConfigError unless all are in [0, 1].

  Among traced ones NaN acts as 1, the full model.
  """
  if isinstance(thresholds, jax.core.Tracer):
    return
  values = np.asarray(thresholds)
  if not ((values >= 0) & (values <= 1)).all():
    raise errors.ConfigError(
      f'Thresholds must be in [0, 1], got {values.reshape(-1).tolist()}; 1 is'
      ' the full model.'
    )


def check_rows(
  encoder_input_tokens: np.ndarray | jax.Array,
  thresholds: np.ndarray | jax.Array,
  seeds: np.ndarray | jax.Array | None = None,
  prompts: np.ndarray | jax.Array | None = None,
) -> None:
  """Raises ConfigError unless the arrays are of the same sources.

  Args:
    encoder_input_tokens: [sources, source].
    thresholds: [sources] or [sources, rows].
    seeds: of the thresholds' shape.
    prompts: [sources, length].
  """
  if thresholds.shape[:1] != encoder_input_tokens.shape[:1] or (
    seeds is not None and seeds.shape != thresholds.shape
  ):
    given = 'no' if seeds is None else seeds.shape
    raise errors.ConfigError(
      'There must be one row of thresholds for each source, and one seed for'
      f' each threshold, got {encoder_input_tokens.shape} tokens,'
      f' {thresholds.shape} thresholds and {given} seeds.'
    )
  check_prompt_rows(encoder_input_tokens, prompts)


def check_prompt_rows(
  encoder_input_tokens: np.ndarray | jax.Array,
  prompts: np.ndarray | jax.Array | None,
) -> None:
  """Raises ConfigError unless there is a prompt for each source, or none."""
  sources = len(encoder_input_tokens)
  if prompts is not None and len(prompts) != sources:
    raise errors.ConfigError(
      f'There must be one row of prompts for each source, got {len(prompts)}'
      f' for {sources}.'
    )


def check_eos_id(eos_id: int | jax.Array, vocab_size: int) -> None:
  """Raises ConfigError unless it is a token other than padding."""
  if isinstance(eos_id, jax.core.Tracer):
    return
  if not 0 < eos_id < vocab_size:
    raise errors.ConfigError(
      f'eos_id must be from 1 to {vocab_size - 1}, a token of the vocabulary'
      f' other than the start symbol and padding 0, got {eos_id}.'
    )


def check_seeds(
  sampler: sampling.Sampler | None, seeds: jax.Array | None
) -> None:
  """Raises ConfigError for a sampler without seeds."""
  if sampler is not None and seeds is None:
    raise errors.ConfigError('A sampler needs a seed for every row, got none.')


def checked_prompts(
  prompts: jax.Array | None, eos_id: int | jax.Array, max_decode_length: int
) -> jax.Array | None:
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
  goes_on = jnp.cumprod((prompts != 0) & (prompts != eos_id), axis=1)
  return jnp.where(goes_on > 0, prompts, 0)
