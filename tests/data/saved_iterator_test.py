"""The place in the data: saved, taken up, missing, damaged."""

import pytest

from calm_jax import errors
from calm_jax.data import saved_iterator

tf = pytest.importorskip('tensorflow')


def numbers(**options):
  """0, 1, 2, ... from tf.data whose place can be saved."""
  dataset = tf.data.Dataset.range(100).map(lambda x: {'number': x})
  return saved_iterator.SavedIterator(
    dataset, lambda element: int(element['number']), **options
  )


@pytest.fixture
def place(tmp_path):
  """Saved after three elements."""
  iterator = numbers()
  assert [next(iterator) for _ in range(3)] == [0, 1, 2]
  assert iterator.save(tmp_path / 'train_ds')
  return tmp_path / 'train_ds'


def test_goes_on_from_the_saved_place(place):
  assert next(numbers(saved_at=place, skipped=50)) == 3


def test_skips_where_no_place_is_saved(tmp_path):
  assert next(numbers(saved_at=tmp_path / 'none', skipped=7)) == 7


def test_data_of_a_generator_cannot_tell_their_place(tmp_path):
  dataset = tf.data.Dataset.from_generator(
    lambda: iter([{'number': 0}]),
    output_signature={'number': tf.TensorSpec((), tf.int64)},
  )
  iterator = saved_iterator.SavedIterator(dataset, dict)
  next(iterator)
  assert not iterator.save(tmp_path / 'train_ds')
  assert not list(tmp_path.glob('*.index'))


def test_a_damaged_place_is_told(place):
  files = sorted(place.parent.glob('train_ds.*'))
  assert [path.suffix for path in files][-1] == '.index'
  for path in files:
    content = path.read_bytes()
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 0x10
    for damaged in (content[: len(content) // 2], bytes(flipped), b''):
      path.write_bytes(damaged)
      with pytest.raises(errors.DataError, match='Delete .*train_ds.index'):
        numbers(saved_at=place)
    path.write_bytes(content)
  assert next(numbers(saved_at=place)) == 3
