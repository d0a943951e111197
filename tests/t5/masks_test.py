"""Masks written out as matrices; buckets by integer arithmetic."""

import jax.numpy as jnp
import numpy as np
import pytest

from calm_jax.t5 import masks

# One row: two tokens and one padding.
SOURCE = np.array([[7, 8, 0]])
TARGET = np.array([[5, 6, 1, 0]])


def as_rows(mask):
  """[1, 1, query, key] -> the same as strings of 0 and 1."""
  return [''.join(map(str, row)) for row in np.asarray(mask[0, 0]).astype(int)]


def test_encoder_mask_hides_padding():
  assert as_rows(masks.encoder_mask(SOURCE)) == ['110', '110', '000']


def test_decoder_mask_is_causal_and_hides_padding():
  assert as_rows(masks.decoder_mask(TARGET)) == [
    '1000',
    '1100',
    '1110',
    '0000',
  ]


def test_encoder_decoder_mask_pairs_tokens():
  mask = masks.encoder_decoder_mask(TARGET, SOURCE)
  assert as_rows(mask) == ['110', '110', '110', '000']


def test_packed_examples_do_not_see_each_other():
  source = np.array([[7, 8, 9, 0]])
  source_segments = np.array([[1, 1, 2, 0]])
  target = np.array([[5, 1, 6, 1, 0]])
  target_segments = np.array([[1, 1, 2, 2, 0]])
  assert as_rows(masks.encoder_mask(source, source_segments)) == [
    '1100',
    '1100',
    '0010',
    '0000',
  ]
  assert as_rows(masks.decoder_mask(target, target_segments)) == [
    '10000',
    '11000',
    '00100',
    '00110',
    '00000',
  ]
  cross = masks.encoder_decoder_mask(
    target, source, target_segments, source_segments
  )
  assert as_rows(cross) == ['1100', '1100', '0010', '0010', '0000']


def test_bias_is_zero_or_hides():
  bias = masks.mask_to_bias(jnp.array([True, False]), jnp.float32)
  np.testing.assert_array_equal(bias, np.float32([0, -1e10]))


def bucket_in_integers(distance, num_buckets, max_distance):
  """The last bucket k with (max / exact)^(k / n) <= distance / exact."""
  num_exact = num_buckets // 2
  if distance < num_exact:
    return distance
  num_coarse = num_buckets - num_exact
  k = 0
  while (
    k + 1 < num_coarse
    and distance**num_coarse * num_exact ** (k + 1)
    >= max_distance ** (k + 1) * num_exact**num_coarse
  ):
    k += 1
  return num_exact + k


def buckets_looking_back(distances, **knobs):
  """Buckets of keys that lie `distances` before their query."""
  query = 1000
  all_buckets = masks.relative_position_buckets(query + 1, query + 1, **knobs)
  return all_buckets[query, query - distances]


def buckets_looking_ahead(distances, **knobs):
  all_buckets = masks.relative_position_buckets(1001, 1001, **knobs)
  return all_buckets[0, distances]


DISTANCES = np.arange(1001)


@pytest.mark.parametrize(('num_buckets', 'max_distance'), [(32, 128), (16, 40)])
def test_encoder_buckets_are_exact(num_buckets, max_distance):
  knobs = {
    'bidirectional': True,
    'num_buckets': num_buckets,
    'max_distance': max_distance,
  }
  per_side = num_buckets // 2
  expected = np.array(
    [bucket_in_integers(d, per_side, max_distance) for d in range(1001)]
  )
  np.testing.assert_array_equal(
    buckets_looking_back(DISTANCES, **knobs), expected
  )
  # Later keys have the other half; a token itself counts as looking back.
  np.testing.assert_array_equal(
    buckets_looking_ahead(DISTANCES[1:], **knobs), expected[1:] + per_side
  )


@pytest.mark.parametrize(('num_buckets', 'max_distance'), [(32, 128), (16, 40)])
def test_decoder_buckets_are_exact(num_buckets, max_distance):
  knobs = {
    'bidirectional': False,
    'num_buckets': num_buckets,
    'max_distance': max_distance,
  }
  expected = [
    bucket_in_integers(d, num_buckets, max_distance) for d in range(1001)
  ]
  np.testing.assert_array_equal(
    buckets_looking_back(DISTANCES, **knobs), expected
  )
  assert not buckets_looking_ahead(DISTANCES, **knobs).any()


def test_exact_powers_open_a_new_encoder_bucket():
  """8 * 16^(k/8) is whole for these: a rounded logarithm may fall short."""
  before = buckets_looking_back(np.array([15, 31, 63]), bidirectional=True)
  at = buckets_looking_back(np.array([16, 32, 64]), bidirectional=True)
  np.testing.assert_array_equal(before, [9, 11, 13])
  np.testing.assert_array_equal(at, [10, 12, 14])
  far = buckets_looking_back(np.array([90, 91, 128]), bidirectional=True)
  np.testing.assert_array_equal(far, [14, 15, 15])
