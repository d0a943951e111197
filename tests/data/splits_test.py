"""Tests of the splits."""

import hashlib

import pytest

from calm_jax.data import splits


def test_the_id_is_the_digest_of_the_plain_words():
  expected = hashlib.sha256(b"it's well known to all").hexdigest()[:16]
  assert splits.example_id_of("It's well-known to all.") == expected


@pytest.mark.parametrize(
  'other',
  [
    'returns the JAX array',
    'Returns the Jax array!',
    'returns: the "jax" array.',
    '  Returns  the\tJAX array. ',
    'Returns the JAX array.',
    'Returns, the-JAX array.',
  ],
)
def test_the_same_words_have_the_same_id(other):
  expected = splits.example_id_of('Returns the JAX array.')
  assert splits.example_id_of(other) == expected


def test_other_words_have_another_id():
  first = splits.example_id_of('Returns the first array.')
  assert splits.example_id_of('Returns the last array.') != first


# Written out: the splits must stay for ever, or a shipped model meets its
# training sentences again in somebody's test split.
@pytest.mark.parametrize(
  ('target', 'example_id', 'split'),
  [
    ('The array has no array.', 'f9dd1ae908200274', 'test'),
    ('The array has no list.', '8beefd62fe6d194a', 'train'),
    ('The list has no server.', 'f1b7064910531ce1', 'calibration'),
    ('The server has no tensor.', 'e718cb716c1949ef', 'validation'),
  ],
)
def test_splits_never_change(target, example_id, split):
  assert splits.example_id_of(target) == example_id
  assert splits.split_of(example_id) == split


@pytest.mark.parametrize(
  ('example_id', 'expected'),
  [
    ('0' * 16, 'train'),
    ('e666666666666666', 'train'),
    ('e666666666666667', 'validation'),
    ('eb00000000000000', 'validation'),
    ('ec00000000000000', 'calibration'),
    ('f600000000000000', 'test'),
    ('f' * 16, 'test'),
  ],
)
def test_boundaries(example_id, expected):
  assert splits.split_of(example_id) == expected


def test_shares():
  ids = [splits.example_id_of(f'sentence {i}') for i in range(20_000)]
  found = [splits.split_of(x) for x in ids]
  for name, percent in splits.SPLITS.items():
    share = percent / 100
    # Four standard deviations of a binomial share.
    margin = 4 * (share * (1 - share) / len(ids)) ** 0.5
    assert abs(found.count(name) / len(ids) - share) < margin


def test_held_out_examples_are_divided_in_the_same_proportion():
  for place, expected in enumerate(
    ['validation'] * 2 + ['calibration'] * 4 + ['test'] * 4
  ):
    first = f'{-(-place * 16**16 // 10):016x}'
    assert splits.held_out_split_of(first) == expected
  assert splits.held_out_split_of('f' * 16) == 'test'
