"""Training checkpoints: round trips, damage, interruption, helpful refusals."""

import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calm_jax import errors
from calm_jax.checkpoints import finding, orbax_io


def tree_of(seed):
  random = np.random.default_rng(seed)
  # As optax nests its states; the middle one is empty.
  return {
    'params': {
      'encoder': {'kernel': random.normal(size=(40, 30)).astype(np.float32)},
      'scale': jnp.asarray(random.normal(size=5), jnp.bfloat16),
    },
    'opt_state': (
      {'v': random.normal(size=(40,)).astype(np.float32)},
      (),
      {'count': np.int32(seed)},
    ),
    'step': jnp.int32(seed),
  }


def assert_same_bits(found, expected):
  assert jax.tree.structure(found) == jax.tree.structure(expected)
  for ours, theirs in zip(
    jax.tree.leaves(found), jax.tree.leaves(expected), strict=True
  ):
    assert ours.dtype == theirs.dtype
    assert np.array_equal(ours, theirs)


@pytest.fixture
def store(tmp_path):
  store = orbax_io.CheckpointStore(tmp_path / 'run')
  yield store
  store.close()


def test_restores_what_was_saved_bit_by_bit(store):
  for step in (3, 7):
    store.save(step, tree_of(step))
  assert store.all_steps() == (3, 7)
  assert store.latest_step() == 7
  for step in (3, 7):
    assert_same_bits(store.restore(step, tree_of(0)), tree_of(step))
  names = sorted(path.name for path in store.directory.iterdir())
  assert names == ['checkpoint_3', 'checkpoint_7']


def test_a_template_needs_only_shapes_and_types(store):
  store.save(3, tree_of(3))
  template = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, tree_of(0)))
  assert_same_bits(store.restore(3, template), tree_of(3))


def test_saved_values_do_not_follow_the_caller_s_buffers(store):
  tree = {'params': {'a': np.zeros(1000, np.float32)}}
  store.save(1, tree)
  tree['params']['a'][:] = 1
  assert not store.restore(1, tree)['params']['a'].any()


def test_keeps_the_newest(tmp_path):
  store = orbax_io.CheckpointStore(tmp_path, keep=2)
  for step in (1, 2, 3):
    store.save(step, tree_of(step))
  assert store.all_steps() == (2, 3)
  store.close()
  reopened = orbax_io.CheckpointStore(tmp_path, keep=2)
  assert reopened.latest_step() == 3
  reopened.close()


def test_a_pinned_checkpoint_stays(tmp_path):
  store = orbax_io.CheckpointStore(tmp_path, keep=1)
  store.save(1, tree_of(1))
  (tmp_path / 'checkpoint_1' / 'PINNED').touch()
  for step in (2, 3):
    store.save(step, tree_of(step))
  assert store.all_steps() == (1, 3)
  assert_same_bits(store.restore(1, tree_of(0)), tree_of(1))
  store.close()


def test_a_step_is_saved_once(store):
  store.save(1, tree_of(1))
  with pytest.raises(errors.ConfigError, match='already holds checkpoint_1'):
    store.save(1, tree_of(2))
  assert_same_bits(store.restore(1, tree_of(0)), tree_of(1))


def test_parameters_alone(store):
  store.save(3, tree_of(3))
  expected = jax.tree.map(np.asarray, tree_of(3)['params'])
  assert_same_bits(orbax_io.restore_params(store.directory), expected)
  newest = store.directory / 'checkpoint_3'
  assert finding.find_checkpoint(f'{store.directory}/') == newest
  assert_same_bits(orbax_io.restore_params(newest), expected)


def test_a_checkpoint_may_be_moved(store, tmp_path):
  store.save(3, tree_of(3))
  moved = tmp_path / 'elsewhere' / 'best'
  shutil.copytree(store.directory / 'checkpoint_3', moved)
  expected = jax.tree.map(np.asarray, tree_of(3)['params'])
  assert_same_bits(orbax_io.restore_params(moved), expected)


def test_fault_28_other_arrays_are_listed_by_name(store):
  store.save(3, tree_of(3))
  template = tree_of(0)
  template['params']['encoder'] = {'kernels': np.zeros((40, 30), np.float32)}
  template['params']['scale'] = np.zeros(6, np.float32)
  with pytest.raises(errors.DataError) as error:
    store.restore(3, template)
  message = str(error.value)
  assert 'missing: params/encoder/kernels (nearest in the file:' in message
  assert 'not expected: params/encoder/kernel float32[40, 30]' in message
  assert 'params/scale is bfloat16[5], must be float32[6]' in message


def files_of(checkpoint: pathlib.Path):
  return sorted(path for path in checkpoint.rglob('*') if path.is_file())


def test_fault_31_no_flipped_bit_changes_a_value_unnoticed(store):
  """Every file, at its middle byte: the same values or a DataError."""
  store.save(2, tree_of(2))
  store.save(3, tree_of(3))
  checkpoint = store.directory / 'checkpoint_3'
  refused = 0
  for path in files_of(checkpoint):
    content = path.read_bytes()
    if not content:
      continue
    damaged = bytearray(content)
    damaged[len(content) // 2] ^= 0x10
    path.write_bytes(damaged)
    try:
      assert_same_bits(store.restore(3, tree_of(0)), tree_of(3))
    except errors.DataError as error:
      assert 'checkpoint_3' in str(error)
      refused += 1
    path.write_bytes(content)
  assert refused >= 3
  assert_same_bits(store.restore(3, tree_of(0)), tree_of(3))


def test_fault_31_a_wrong_digest_names_the_array_and_the_file(store):
  store.save(3, tree_of(3))
  store.save(4, tree_of(4))
  # The data of one step under the digests of another: what a silent flip of
  # bits looks like.
  data = store.directory / 'checkpoint_3' / 'state'
  shutil.rmtree(data)
  shutil.copytree(store.directory / 'checkpoint_4' / 'state', data)
  with pytest.raises(
    errors.DataError, match='checkpoint_3 is damaged'
  ) as error:
    store.restore(3, tree_of(0))
  message = str(error.value)
  assert 'params/encoder/kernel' in message
  assert 'beside it: checkpoint_4. Copy it again.' in message


@pytest.mark.parametrize(
  ('written', 'damaged'),
  [
    ('"float32"', '"floot32"'),
    ('"schema_version"', '"schema_versiom"'),
    ('"params/scale"', '"params/scald"'),
    ('"sha256"', '"sha25v"'),
  ],
)
def test_fault_31_damaged_digests_are_told(store, written, damaged):
  store.save(3, tree_of(3))
  path = store.directory / 'checkpoint_3' / 'digests' / 'metadata'
  content = path.read_text()
  assert written in content
  path.write_text(content.replace(written, damaged))
  with pytest.raises(errors.DataError, match='checkpoint_3 is damaged'):
    orbax_io.restore_params(store.directory)


def test_fault_30_the_step_before_a_damaged_one_is_offered(store):
  for step in (2, 3, 5):
    store.save(step, tree_of(step))
  shutil.rmtree(store.directory / 'checkpoint_3' / 'state')
  (store.directory / 'checkpoint_3' / 'state').mkdir()
  with pytest.raises(errors.DataError, match='go on from checkpoint_2, delete'):
    orbax_io.restore_params(store.directory / 'checkpoint_3')
  assert_same_bits(store.restore(2, tree_of(0)), tree_of(2))


def test_fault_29_an_unfinished_save_is_ignored_and_removed(store):
  store.save(3, tree_of(3))
  store.close()
  leftover = store.directory / 'checkpoint_9.orbax-checkpoint-tmp'
  shutil.copytree(store.directory / 'checkpoint_3', leftover)
  newest = finding.find_checkpoint(store.directory)
  assert newest.name == 'checkpoint_3'
  reopened = orbax_io.CheckpointStore(store.directory)
  assert reopened.latest_step() == 3
  assert not leftover.exists()
  reopened.close()


def test_fault_26_a_missing_checkpoint_lists_the_others(store, tmp_path):
  store.save(3, tree_of(3))
  with pytest.raises(errors.DataError, match='run holds checkpoint_3'):
    finding.find_checkpoint(store.directory / 'checkpoint_5')
  with pytest.raises(errors.DataError, match=r'hold them: run \(checkpoint_3'):
    orbax_io.restore_params(tmp_path)
  with pytest.raises(errors.DataError, match='not even'):
    finding.find_checkpoint(tmp_path / 'no' / 'where')
  empty = tmp_path / 'empty'
  empty.mkdir()
  with pytest.raises(errors.DataError, match='it is empty'):
    finding.find_checkpoint(empty)


def test_foreign_checkpoints_are_refused(tmp_path):
  (tmp_path / 'checkpoint_1' / 'state').mkdir(parents=True)
  with pytest.raises(errors.DataError, match='not written by calm_jax'):
    orbax_io.restore_params(tmp_path)


def test_a_directory_that_cannot_be_made_is_a_resource_error(tmp_path):
  (tmp_path / 'file').write_text('')
  with pytest.raises(errors.ResourceError, match='Cannot keep checkpoints'):
    orbax_io.CheckpointStore(tmp_path / 'file' / 'run')
