"""What is refused before anything is compiled; values that are traced pass."""

import numbers

import jax
import numpy as np

from calm_jax import errors
from calm_jax.decode import beam_search, decode_fns
from calm_jax.early_exit.engine import sampling


def check_rows(tokens, thresholds, seeds, prompts) -> None:
  """Raises ConfigError unless the arrays are of the same sources."""
  if thresholds.shape[:1] != tokens.shape[:1] or (
    seeds is not None and seeds.shape != thresholds.shape
  ):
    given = 'no' if seeds is None else seeds.shape
    raise errors.ConfigError(
      'There must be one row of thresholds for each source, and one seed for'
      f' each threshold, got {tokens.shape} tokens, {thresholds.shape}'
      f' thresholds and {given} seeds.'
    )
  if prompts is not None and len(prompts) != len(tokens):
    raise errors.ConfigError(
      f'There must be one row of prompts for each source, got {len(prompts)}'
      f' for {len(tokens)}.'
    )


def check_thresholds(thresholds: float | np.ndarray | jax.Array) -> None:
  """Raises ConfigError unless all are in [0, 1]; traced ones pass."""
  if isinstance(thresholds, jax.core.Tracer):
    return
  values = np.asarray(thresholds)
  if not ((values >= 0) & (values <= 1)).all():
    raise errors.ConfigError(
      f'Thresholds must be in [0, 1], got {values.reshape(-1).tolist()}; 1 is'
      ' the full model.'
    )


def check_positive(name: str, number: int) -> None:
  """Raises ConfigError unless it is an integer of at least 1."""
  if type(number) is not int or number < 1:
    raise errors.ConfigError(
      f'{name} must be an integer of at least 1, got {number!r}.'
    )


def check_eos_id(eos_id, vocab_size: int) -> None:
  """Raises ConfigError unless it is a token other than padding."""
  if isinstance(eos_id, jax.core.Tracer):
    return
  if not 0 < eos_id < vocab_size:
    raise errors.ConfigError(
      f'eos_id must be from 1 to {vocab_size - 1}, a token of the vocabulary'
      f' other than the start symbol and padding 0, got {eos_id}.'
    )


def check_decode_fn(
  decode_fn, thresholds, seeds, trace, max_decode_length: int
) -> None:
  """Raises ConfigError unless the others are what it needs."""
  if isinstance(decode_fn, sampling.Sampler) != (seeds is not None):
    raise errors.ConfigError(
      'A sampler needs a seed for every row, and nothing else takes seeds; got'
      f' {"no" if seeds is None else "some"} seeds for {decode_fn}.'
    )
  if not isinstance(decode_fn, beam_search.BeamSearch):
    return
  is_traced = isinstance(thresholds, jax.core.Tracer)
  if trace or is_traced or np.any(np.asarray(thresholds) < 1):
    raise errors.ConfigError(
      'A beam search is for the full model alone: scores of different layers'
      ' cannot be compared. Leave out the threshold and the trace, got the'
      f' thresholds {thresholds}.'
    )
  beam_search.check_alpha(decode_fn.alpha, max_decode_length)


def check_num_decodes(num_decodes: int, decode_fn: decode_fns.DecodeFn) -> None:
  """Raises ConfigError for no outputs, or several that would be the same."""
  if not isinstance(num_decodes, numbers.Integral) or num_decodes < 1:
    raise errors.ConfigError(
      'The number of outputs or beams per source must be an integer of at least'
      f' 1, got {num_decodes!r}.'
    )
  if num_decodes > 1 and isinstance(decode_fn, decode_fns.Greedy):
    raise errors.ConfigError(
      'More than one output per source needs a sampler, such as a temperature,'
      f' or a beam search, got {num_decodes}: greedy outputs are all the same.'
    )
