"""A dump goes out and comes back whole, or is refused in one sentence."""

import dataclasses
import hashlib
import io
import json
import os
import time
import zipfile

import numpy as np
import pytest
from testing import dumps

from calm_jax import errors
from calm_jax.dump import reader
from calm_jax.records import contracts, dump_arrays

G, T, L = 3, 4, 8
HEADER = dumps.make_manifest(
  thresholds=(1.0, 0.5, 0.1),
  num_decoder_layers=L,
  max_decode_length=T,
  versions={'numpy': '2'},
)


def make_batch(first, size, seed=0):
  random = np.random.default_rng(seed + first)
  layers = random.integers(1, L + 1, (size, G, T))
  layers[:, 0] = L
  layers[:, :, -1] = 0  # the last position has no token
  ids = range(first, first + size)
  return contracts.Dump(
    example_ids=np.array([f'example-{i}' for i in ids]),
    sources=np.array(['a source'] * size),
    references=np.array([f'Déjà vu {"x" * i} \U0001f600.' for i in ids]),
    predictions=np.array([[f'{i} at {g}' for g in range(G)] for i in ids]),
    tokens=np.where(layers > 0, 7, 0).astype(np.int32),
    num_layers_used=layers.astype(np.int8),
    confidences=random.random((size, G, T), np.float32),
    trace_confidences=random.random((size, T, L), np.float32),
    trace_tokens=random.integers(0, 9, (size, T, L), np.int32),
    num_undefined=random.integers(0, 3, (size, G), np.int32),
  )


def write(directory, **kwargs):
  return dumps.write_dump(
    directory, HEADER, [make_batch(0, 3), make_batch(3, 2)], **kwargs
  )


def edit_manifest(directory, **fields):
  path = directory / 'manifest.json'
  fields = json.loads(path.read_text()) | fields
  fields.pop('record_sha256', None)  # Would give the edit away.
  path.write_text(json.dumps(fields))


def replace_shard(directory, content):
  """Puts other bytes in the first shard, with the digest that they need."""
  (directory / 'shard-00000.npz').write_bytes(content)
  shards = json.loads((directory / 'manifest.json').read_text())['shards']
  shards[0]['sha256'] = hashlib.sha256(content).hexdigest()
  edit_manifest(directory, shards=shards)


def npz(members):
  buffer = io.BytesIO()
  with zipfile.ZipFile(buffer, 'w') as archive:
    for name, content in members.items():
      archive.writestr(name, content)
  return buffer.getvalue()


def members_of(path):
  with zipfile.ZipFile(path) as archive:
    return {name: archive.read(name) for name in archive.namelist()}


def test_round_trip(tmp_path):
  written = write(tmp_path / 'dump')
  manifest, dump = reader.read_dump(tmp_path / 'dump')
  assert manifest == written
  assert manifest.num_examples == 5
  assert [shard.num_examples for shard in manifest.shards] == [3, 2]
  expected = contracts.Dump.concatenate([make_batch(0, 3), make_batch(3, 2)])
  for field in dataclasses.fields(contracts.Dump):
    array = getattr(dump, field.name)
    np.testing.assert_array_equal(array, getattr(expected, field.name))
    assert array.dtype == getattr(expected, field.name).dtype
  assert sorted(os.listdir(tmp_path)) == ['dump']


def test_numpy_itself_can_load_a_shard(tmp_path):
  write(tmp_path / 'dump')
  with np.load(tmp_path / 'dump' / 'shard-00001.npz') as arrays:
    np.testing.assert_array_equal(arrays['tokens'], make_batch(3, 2).tokens)


def test_the_same_data_give_the_same_bytes(tmp_path, monkeypatch):
  write(tmp_path / 'one')
  a_year_later = time.time() + 366 * 86400
  monkeypatch.setattr(time, 'time', lambda: a_year_later)
  write(tmp_path / 'two')
  for name in os.listdir(tmp_path / 'one'):
    assert (tmp_path / 'one' / name).read_bytes() == (
      tmp_path / 'two' / name
    ).read_bytes()


def test_mean_layers_counts_tokens_only(tmp_path):
  dump = make_batch(0, 4)
  by_hand = [
    np.mean([n for row in dump.num_layers_used[:, g] for n in row if n])
    for g in range(G)
  ]
  np.testing.assert_allclose(dump.mean_layers(), by_hand, rtol=1e-12)
  assert dump.mean_layers()[0] == L


def test_a_complete_dump_is_kept_unless_asked(tmp_path):
  write(tmp_path / 'dump')
  with pytest.raises(errors.DataError, match='already holds a complete dump'):
    write(tmp_path / 'dump')
  dumps.write_dump(
    tmp_path / 'dump', HEADER, [make_batch(9, 1)], overwrite=True
  )
  assert reader.read_dump(tmp_path / 'dump')[0].num_examples == 1
  assert os.listdir(tmp_path) == ['dump']


def test_nobody_needs_to_count_undefined_confidences(tmp_path):
  uncounted = dataclasses.replace(make_batch(3, 2), num_undefined=None)
  dumps.write_dump(tmp_path / 'dump', HEADER, [uncounted])
  _, dump = reader.read_dump(tmp_path / 'dump')
  assert dump.num_undefined is None
  joined = contracts.Dump.concatenate([make_batch(0, 3), uncounted])
  assert joined.num_undefined is None and joined.num_examples == 5


def test_thresholds_come_apart_and_together():
  whole = make_batch(0, 3)
  more = {
    name: getattr(whole, name)[:, 1:]
    for name, (axes, _) in (
      dump_arrays.ARRAYS | dump_arrays.OPTIONAL_ARRAYS
    ).items()
    if 'G' in axes
  }
  first = whole.first_thresholds(1)
  assert first.num_thresholds == 1 and whole.num_thresholds == G
  again = first.with_thresholds(more)
  for name, array in whole.arrays().items():
    np.testing.assert_array_equal(getattr(again, name), array)


def test_other_files_are_never_removed(tmp_path):
  (tmp_path / 'thesis.tex').touch()
  with pytest.raises(errors.DataError, match='thesis.tex'):
    write(tmp_path, overwrite=True)
  write(tmp_path / 'dump')
  (tmp_path / 'dump' / 'notes.txt').touch()
  with pytest.raises(errors.DataError, match='notes.txt'):
    write(tmp_path / 'dump', overwrite=True)
  assert (tmp_path / 'dump' / 'notes.txt').exists()


def test_what_is_no_dump_is_not_written(tmp_path):
  with pytest.raises(errors.DataError, match='at least one example'):
    dumps.write_dump(tmp_path / 'dump', HEADER, [])
  twice = [make_batch(0, 2), make_batch(1, 2)]
  with pytest.raises(errors.DataError, match='example-1'):
    dumps.write_dump(tmp_path / 'dump', HEADER, twice)
  assert not (tmp_path / 'dump').exists()


def test_shards_have_the_sizes_that_the_manifest_says(tmp_path):
  write(tmp_path / 'dump')
  edit_manifest(tmp_path / 'dump', thresholds=[1.0, 0.5])
  with pytest.raises(errors.DataError, match='thresholds, length, layers'):
    reader.read_dump(tmp_path / 'dump')


def test_an_unwritable_place(tmp_path):
  (tmp_path / 'file').touch()
  with pytest.raises(errors.ResourceError, match='Cannot write'):
    write(tmp_path / 'file' / 'dump')


@pytest.mark.parametrize('cut', [0, 1, 100, -1])
def test_a_truncated_shard(tmp_path, cut):
  write(tmp_path)
  path = tmp_path / 'shard-00001.npz'
  path.write_bytes(path.read_bytes()[:cut])
  with pytest.raises(errors.DataError, match='shard-00001.npz.*truncated'):
    reader.read_dump(tmp_path)


def test_a_flipped_bit(tmp_path):
  write(tmp_path)
  path = tmp_path / 'shard-00000.npz'
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 1
  path.write_bytes(content)
  with pytest.raises(errors.DataError, match='truncated or altered'):
    reader.read_dump(tmp_path)


def test_a_missing_shard_manifest_or_directory(tmp_path):
  with pytest.raises(errors.DataError, match='does not exist'):
    reader.read_dump(tmp_path / 'nothing')
  write(tmp_path)
  (tmp_path / 'shard-00000.npz').unlink()
  with pytest.raises(errors.DataError, match='shard-00000.npz is missing'):
    reader.read_dump(tmp_path)
  (tmp_path / 'manifest.json').unlink()
  with pytest.raises(errors.DataError, match='not a complete dump'):
    reader.read_dump(tmp_path)


def of_model(**fields):
  """The manifest's field `model` as JSON, with other fields."""
  model = dumps.make_model(num_decoder_layers=L, max_decode_length=T).to_json()
  sizes = model['network']['knobs']
  for name, value in fields.items():
    (sizes if name in sizes else model)[name] = value
  return {'model': model}


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    # With `measure` as text, and sizes outside the model's description.
    ({'schema_version': 1}, 'schema version 1, .*reads version 2; use'),
    ({'schema_version': None}, 'schema version None'),
    ({'thresholds': [0.5, 1.0]}, 'descend strictly'),
    ({'thresholds': [0.9, 0.5, 0.1]}, 'start with 1.0'),
    ({'num_examples': 6}, 'the shards hold 5'),
    (of_model(num_decoder_layers=4, exit_layers=(4,)), 'layers'),
    (of_model(max_decode_length='four'), 'max_decode_length must be int'),
    ({'surprise': 1}, "unknown fields \\['surprise'\\]"),
    ({'shards': [], 'num_examples': 0}, 'without any example'),
  ],
)
def test_a_manifest_that_does_not_fit(tmp_path, fields, message):
  write(tmp_path)
  edit_manifest(tmp_path, **fields)
  with pytest.raises(errors.DataError, match=message):
    reader.read_dump(tmp_path)


def test_a_manifest_cannot_point_outside(tmp_path):
  write(tmp_path / 'dump')
  (tmp_path / 'dump' / 'shard-00000.npz').rename(tmp_path / 'shard-00000.npz')
  path = tmp_path / 'dump' / 'manifest.json'
  shards = json.loads(path.read_text())['shards']
  shards[0]['file'] = '../shard-00000.npz'
  edit_manifest(tmp_path / 'dump', shards=shards)
  with pytest.raises(errors.DataError, match='must be named'):
    reader.read_dump(tmp_path / 'dump')


def test_shards_with_other_contents(tmp_path):
  write(tmp_path)
  members = members_of(tmp_path / 'shard-00000.npz')

  replace_shard(tmp_path, b'not a zip file')
  with pytest.raises(errors.DataError, match='not a shard'):
    reader.read_dump(tmp_path)

  for evil in ('../evil.npy', 'evil', 'tokens.npy.npy'):
    replace_shard(tmp_path, npz(members | {evil: b''}))
    with pytest.raises(errors.DataError, match=f'must hold.*{evil}'):
      reader.read_dump(tmp_path)

  lacking = {k: v for k, v in members.items() if k != 'tokens.npy'}
  replace_shard(tmp_path, npz(lacking))
  with pytest.raises(errors.DataError, match='must hold'):
    reader.read_dump(tmp_path)

  pickled = io.BytesIO()
  np.save(pickled, np.array([{}], object), allow_pickle=True)
  replace_shard(tmp_path, npz(members | {'tokens.npy': pickled.getvalue()}))
  with pytest.raises(errors.DataError, match='allow_pickle=False'):
    reader.read_dump(tmp_path)

  wide = io.BytesIO()
  np.save(wide, make_batch(0, 3).tokens.astype(np.int64))
  replace_shard(tmp_path, npz(members | {'tokens.npy': wide.getvalue()}))
  with pytest.raises(errors.DataError, match='tokens must be .*int32.*int64'):
    reader.read_dump(tmp_path)

  replace_shard(tmp_path, npz(members))  # the helper itself changes nothing
  assert reader.read_dump(tmp_path)[0].num_examples == 5


def test_shards_that_overlap(tmp_path):
  write(tmp_path)
  content = (tmp_path / 'shard-00000.npz').read_bytes()
  shards = json.loads((tmp_path / 'manifest.json').read_text())['shards']
  shards[1] |= {'sha256': shards[0]['sha256'], 'num_examples': 3}
  (tmp_path / 'shard-00001.npz').write_bytes(content)
  edit_manifest(tmp_path, shards=shards, num_examples=6)
  with pytest.raises(errors.DataError, match='more than once.*example-0'):
    reader.read_dump(tmp_path)


@pytest.mark.parametrize(
  ('change', 'error', 'message'),
  [
    (
      lambda d: d.confidences.__setitem__((1, 2, 0), np.nan),
      errors.NumericError,
      'example example-1 at GT = .2, 0.',
    ),
    (
      lambda d: d.trace_confidences.__setitem__((0, 1, 3), np.inf),
      errors.NumericError,
      'trace_confidences must be finite',
    ),
    (
      lambda d: d.num_layers_used.__setitem__((2, 1, 0), L + 1),
      errors.DataError,
      'num_layers_used must be 1..8.*example-2',
    ),
    (
      lambda d: d.num_layers_used.__setitem__((2, 1, 0), 0),
      errors.DataError,
      'where there is a token.*example-2',
    ),
    (
      lambda d: d.num_layers_used.__setitem__((1, 0, 0), 3),
      errors.DataError,
      'full model .* must use all 8 layers.*example-1',
    ),
    (
      lambda d: d.num_undefined.__setitem__((1, 2), -1),
      errors.DataError,
      'num_undefined must not be negative.*example-1',
    ),
  ],
)
def test_arrays_that_cannot_be(change, error, message):
  batch = make_batch(0, 3)
  change(batch)
  with pytest.raises(error, match=message):
    contracts.Dump.concatenate([batch])
