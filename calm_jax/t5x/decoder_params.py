"""T5X's decoder_params: what one call of `predict_batch` changes.

    decode_fn, decoder_params, rng --settle--> DecodeCall --predictor--> decodes

T5X's `decode_fn` is a function, and `decoder_params` its keyword arguments.
Here a decode_fn is an object that carries its own knobs; decoder_params, under
T5X's names, change them for one call.
"""

import dataclasses
import numbers
from collections.abc import Mapping
from typing import Any

import gin
import jax
import jax.numpy as jnp

from calm_jax import errors
from calm_jax.decode import beam_search, decode_fns
from calm_jax.early_exit.engine import sampling


@gin.configurable
@dataclasses.dataclass(frozen=True)
class DecoderParams:
  """T5X's `default_decoder_params`: what calls ask for that do not say.

  Attributes:
    return_all_decodes: whether to return all decodes, or the best one.
    num_decodes: outputs per source; the number of beams for a beam search.
  """

  return_all_decodes: bool = False
  num_decodes: int = 1


@dataclasses.dataclass(frozen=True)
class DecodeCall:
  """What one call asks for; its values may be traced.

  Attributes:
    decode_fn: with the knobs of this call.
    eos_id: the token that ends an output.
    rng: key of the draws.
    max_decode_length: longest output, or None.
    max_decode_steps: most tokens after the prompt, or None.
  """

  decode_fn: decode_fns.DecodeFn
  eos_id: Any
  rng: jax.Array
  max_decode_length: int | None
  max_decode_steps: Any


# T5X's names of the knobs, and ours.
_SAMPLER_KNOBS = {
  'temperature': 'temperature',
  'topk': 'top_k',
  'topp': 'top_p',
  'rescale_log_probs': 'rescale_log_probs',
}
_STEPS = ('max_decode_steps', 'max_decode_steps_hard_limit')
_COMMON = ('decode_rng', 'eos_id', 'max_decode_len')


def settle(
  decode_fn: decode_fns.DecodeFn,
  decoder_params: Mapping[str, Any] | None,
  *,
  rng: jax.Array | None,
  max_decode_length: int | None,
  default_eos_id: int,
) -> DecodeCall:
  """One call's choices from the model's and T5X's `decoder_params`.

  Args:
    decode_fn: how to decode.
    decoder_params: for every decode_fn `decode_rng`, `eos_id` and
      `max_decode_len`; for greedy decoding and sampling also
      `max_decode_steps`, `max_decode_steps_hard_limit`, `temperature`, `topk`,
      `topp` and `rescale_log_probs`; for beam search also `alpha`. They are
      not changed.
    rng: as `decode_rng`.
    max_decode_length: as `max_decode_len`.
    default_eos_id: for calls that give none.

  Raises:
    ConfigError: a name that the decode_fn does not know, a value out of range,
      or the same thing said twice.
  """
  given = dict(decoder_params or {})
  _check_names(decode_fn, given)
  rng = _only_one(rng, given, 'decode_rng', 'rng')
  return DecodeCall(
    decode_fn=_with_knobs(decode_fn, given),
    eos_id=given.get('eos_id', default_eos_id),
    rng=jax.random.key(0) if rng is None else rng,
    max_decode_length=_only_one(
      max_decode_length, given, 'max_decode_len', 'max_decode_length'
    ),
    max_decode_steps=_steps(given),
  )


def _check_names(decode_fn, given) -> None:
  known = {*_COMMON}
  if isinstance(decode_fn, beam_search.BeamSearch):
    known |= {'alpha'}
  else:
    known |= {*_STEPS, *_SAMPLER_KNOBS}
  unknown = sorted(set(given) - known)
  if unknown:
    raise errors.ConfigError(
      f'decoder_params of {type(decode_fn).__name__} must be among'
      f' {", ".join(sorted(known))}, got {", ".join(unknown)}. A decode_fn is'
      ' chosen by the argument decode_fn, of the model or of the call.'
    )


def _only_one(argument, given, name, argument_name):
  """The argument or the entry of decoder_params; None if neither is given."""
  value = given.get(name)
  if argument is not None and value is not None:
    raise errors.ConfigError(
      f"Give either {argument_name} or decoder_params['{name}'], not both."
    )
  return value if argument is None else argument


def _with_knobs(decode_fn, given) -> decode_fns.DecodeFn:
  if 'alpha' in given:
    return dataclasses.replace(decode_fn, alpha=given['alpha'])
  knobs = {
    ours: given[theirs]
    for theirs, ours in _SAMPLER_KNOBS.items()
    if theirs in given
  }
  if not knobs:
    return decode_fn
  if isinstance(decode_fn, sampling.Sampler):
    return dataclasses.replace(decode_fn, **knobs)
  if 'top_k' not in knobs:
    # T5X's default is 1: its sampling is greedy until a topk is given.
    raise errors.ConfigError(
      f'decoder_params {sorted(given)} must say topk too (0 for the whole'
      ' vocabulary): the model decodes greedily, which is topk 1.'
    )
  return sampling.Sampler(**knobs)


def _steps(given):
  """`max_decode_steps` within its hard limit, as in T5X."""
  steps = given.get('max_decode_steps')
  limit = given.get('max_decode_steps_hard_limit')
  if steps is None:
    return None
  if isinstance(steps, numbers.Integral) and steps < 1:
    raise errors.ConfigError(f'max_decode_steps must be positive, got {steps}.')
  return jnp.minimum(steps, limit) if limit else steps
