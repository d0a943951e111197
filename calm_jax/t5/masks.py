"""Attention masks and relative position buckets of T5, as pure functions.

First room of the house: everything here is arithmetic on token ids and
positions, and knows no parameters.
"""

import functools

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

# Added to an attention logit that must not be attended to, as in T5X.
MASKED_LOGIT = -1e10


def encoder_mask(
  encoder_input_tokens: Int[Array, 'batch source'],
  segment_ids: Int[Array, 'batch source'] | None = None,
) -> Bool[Array, 'batch 1 source source']:
  """True where an encoder position may look at another: both are not padding.

  Args:
    encoder_input_tokens: token ids, 0 is padding.
    segment_ids: ids of the examples packed into a row; attention stays inside
      one example.

  Returns:
    The mask, with an axis of size one for the heads.
  """
  is_token = encoder_input_tokens > 0
  mask = is_token[:, None, :, None] & is_token[:, None, None, :]
  return mask & _same_segment(segment_ids, segment_ids)


def decoder_mask(
  decoder_target_tokens: Int[Array, 'batch target'],
  segment_ids: Int[Array, 'batch target'] | None = None,
) -> Bool[Array, 'batch 1 target target']:
  """True where a decoder position may look at another: itself and earlier.

  Whether a position holds a token is read off the targets: the first input is
  0 (the start symbol) although it is no padding.

  Args:
    decoder_target_tokens: token ids, 0 is padding.
    segment_ids: ids of the examples packed into a row.

  Returns:
    The mask, with an axis of size one for the heads.
  """
  length = decoder_target_tokens.shape[1]
  causal = jnp.tril(jnp.ones((length, length), dtype=bool))[None, None]
  is_token = decoder_target_tokens > 0
  mask = is_token[:, None, :, None] & is_token[:, None, None, :]
  return causal & mask & _same_segment(segment_ids, segment_ids)


def encoder_decoder_mask(
  decoder_target_tokens: Int[Array, 'batch target'],
  encoder_input_tokens: Int[Array, 'batch source'],
  decoder_segment_ids: Int[Array, 'batch target'] | None = None,
  encoder_segment_ids: Int[Array, 'batch source'] | None = None,
) -> Bool[Array, 'batch 1 target source']:
  """True where a decoder position may look at an encoder position."""
  mask = (decoder_target_tokens > 0)[:, None, :, None]
  mask = mask & (encoder_input_tokens > 0)[:, None, None, :]
  return mask & _same_segment(decoder_segment_ids, encoder_segment_ids)


def _same_segment(query_segment_ids, key_segment_ids):
  if query_segment_ids is None or key_segment_ids is None:
    return True
  return query_segment_ids[:, None, :, None] == key_segment_ids[:, None, None]


def mask_to_bias(mask: Bool[Array, '...'], dtype) -> Float[Array, '...']:
  """0 where the mask is True, a large negative number elsewhere."""
  return jnp.where(mask, 0.0, MASKED_LOGIT).astype(dtype)


@functools.cache
def relative_position_buckets(
  query_length: int,
  key_length: int,
  *,
  bidirectional: bool,
  num_buckets: int = 32,
  max_distance: int = 128,
) -> np.ndarray:
  """Bucket of every (query, key) pair of positions, int32 [query, key].

  Half of the buckets (of each direction's share) hold one distance each; the
  others grow in equal steps of the logarithm up to `max_distance` and beyond
  (Raffel et al. 2020, Sec. 2.1). Boundaries fall on exact powers (distance 16,
  32 and 64 in the encoder), where float32 logarithms differ between libraries:
  they are found here in float64 with a margin far below one distance.

  Args:
    query_length: number of query positions, counted from 0.
    key_length: number of key positions, counted from 0.
    bidirectional: whether later keys have buckets of their own (encoder); in
      the decoder all later keys share bucket 0.
    num_buckets: number of buckets, of both directions together.
    max_distance: distance from which on all share the last bucket.

  Returns:
    The bucket of each pair.
  """
  keys = np.arange(key_length)[None, :]
  queries = np.arange(query_length)[:, None]
  look_back = queries - keys
  if not bidirectional:
    distance = np.maximum(look_back, 0)
    return _distance_buckets(distance, num_buckets, max_distance)
  per_side = num_buckets // 2
  buckets = _distance_buckets(np.abs(look_back), per_side, max_distance)
  return np.where(look_back < 0, buckets + per_side, buckets).astype(np.int32)


def _distance_buckets(distance, num_buckets, max_distance):
  num_exact = num_buckets // 2
  growth = np.log(np.maximum(distance, 1) / num_exact) / np.log(
    max_distance / num_exact
  )
  coarse = num_exact + np.floor(growth * (num_buckets - num_exact) + 1e-9)
  coarse = np.clip(coarse, None, num_buckets - 1)
  return np.where(distance < num_exact, distance, coarse).astype(np.int32)
