"""Both formats of T5X hold the same model; what else T5X users give by mistake.

The Orbax checkpoint here has the tree and the items that T5X gives to Orbax
(`checkpoints.OrbaxCheckpointManagerInterface` at cc342d4); one that t5x.train
wrote at that commit was read in the same way.
"""

import shutil

import jax
import numpy as np
import pytest
from testing import t5x_files, tiny_t5

from calm_jax import errors
from calm_jax.checkpoints import (
  from_huggingface,
  from_t5x,
  load,
  orbax_io,
  param_trees,
  sha256sums,
  sizes_of_arrays,
)
from calm_jax.t5x import training_state
from calm_jax.training import optimizers


@pytest.fixture
def native(t5x_tiny, tmp_path):
  return shutil.copytree(t5x_tiny / 't5_1_1_tiny', tmp_path / 'native')


@pytest.fixture(scope='module')
def config(hf_tiny):
  return from_huggingface.load(hf_tiny / 't5_v1_1_tiny').config


@pytest.fixture(scope='module')
def orbax(t5x_tiny, tmp_path_factory):
  """The native checkpoint's tree, in Orbax's layout."""
  checkpoint = from_t5x.open_checkpoint(t5x_tiny / 't5_1_1_tiny')
  tree = param_trees.unflatten(checkpoint.read(checkpoint.shapes))
  directory = tmp_path_factory.mktemp('orbax')
  t5x_files.write_orbax(directory, 12, tree)
  return directory


def assert_same(found, expected):
  found, expected = map(param_trees.flatten, (found, expected))
  assert found.keys() == expected.keys()
  for name, array in expected.items():
    assert found[name].dtype == np.float32
    np.testing.assert_array_equal(found[name], array)


def test_orbax_gives_the_native_one_s_parameters(native, orbax, config):
  expected = from_t5x.load_params(native, config)
  assert_same(from_t5x.load_params(orbax, config), expected)
  assert_same(load.load_model(orbax / 'checkpoint_12', config).params, expected)


def test_exit_classifiers_come_along(tmp_path):
  """Those that our model trained under T5X."""
  config = tiny_t5.tiny_config(tied=False)
  params = jax.tree.map(np.asarray, tiny_t5.tiny_params(config))
  state = {'step': np.int32(7), 'param_states': {'a': np.ones(3, np.float32)}}
  t5x_files.write_orbax(tmp_path, 7, {'target': params, 'state': state})
  found = load.load_model(tmp_path, config).params
  assert 'exit_classifiers' in found
  assert_same(found, params)


def test_a_damaged_orbax_checkpoint_is_refused(orbax, config, tmp_path):
  directory = shutil.copytree(orbax / 'checkpoint_12', tmp_path / 'copy')
  data = max(directory.rglob('d/*'), key=lambda path: path.stat().st_size)
  data.write_bytes(data.read_bytes()[:100])
  assert from_t5x.is_t5x(directory)
  with pytest.raises(errors.DataError, match='copy is damaged'):
    load.load_model(directory, config)


def test_sizes_are_told_from_the_arrays(t5x_tiny, orbax, config):
  assert from_t5x.load_config(orbax) == config
  tied = from_t5x.load_config(t5x_tiny / 't5_1_0_tiny')
  assert tied == config.replace(
    mlp_activations=('relu',), logits_via_embedding=True
  )


def test_heads_that_cannot_be_are_told(t5x_tiny):
  checkpoint = from_t5x.open_checkpoint(t5x_tiny / 't5_1_1_tiny')
  shapes = {
    name.removeprefix('target/'): shape
    for name, shape in checkpoint.shapes.items()
    if name.startswith('target/')
  }
  shapes['encoder/relpos_bias/rel_embedding'] = (600, 32)
  with pytest.raises(errors.DataError, match='does not hold a T5'):
    sizes_of_arrays.config_of(shapes, 'a file')


def test_other_sizes_are_named_by_field(orbax, config):
  other = config.replace(mlp_dim=48, logits_via_embedding=True)
  with pytest.raises(errors.DataError) as error:
    from_t5x.load_params(orbax, other)
  message = str(error.value)
  assert 'mlp_dim = 32 (the configuration has 48)' in message
  assert 'logits_via_embedding = False (the configuration has True)' in message
  assert 'not expected: decoder/logits_dense/kernel (16, 128)' in message


def test_sums_find_what_orbax_does_not(orbax, config, tmp_path):
  directory = shutil.copytree(orbax / 'checkpoint_12', tmp_path / 'copy')
  data = max(directory.rglob('d/*'), key=lambda path: path.stat().st_size)
  sha256sums.write(directory, [str(data.relative_to(directory))])
  # As find and sha256sum write it, with ./ and the star of binary mode.
  sums = directory / 'SHA256SUMS'
  sums.write_text(sums.read_text().replace('  ', ' *./'))
  from_t5x.load_params(directory, config)
  content = bytearray(data.read_bytes())
  content[len(content) // 2] ^= 1
  data.write_bytes(content)
  with pytest.raises(errors.DataError, match=f'{data.name} is damaged'):
    from_t5x.load_params(directory, config)


def test_a_foreign_orbax_checkpoint_is_refused(tmp_path, config):
  t5x_files.write_orbax(tmp_path, 1, {'model': np.ones(3, np.float32)})
  with pytest.raises(errors.DataError, match='no arrays under target/, but mo'):
    load.load_model(tmp_path, config)


def test_mesh_tensorflow_is_told_by_its_files(tmp_path, config):
  for name in ('model.ckpt-1000000.index', 'operative_config.gin'):
    (tmp_path / name).touch()
  with pytest.raises(errors.DataError, match='convert_tf_checkpoint.py'):
    load.load_model(tmp_path, config)


def test_scanned_layers_are_named(tmp_path, config):
  arrays = {'target/decoder/decoder/mlp/wo/kernel': np.ones((32, 4, 16))}
  t5x_files.write_native(tmp_path / 'scanned', arrays)
  with pytest.raises(errors.DataError, match='scan_layers=True'):
    from_t5x.load_params(tmp_path / 'scanned', config)
  with pytest.raises(errors.DataError, match='does not hold a T5'):
    from_t5x.load_config(tmp_path / 'scanned')


def test_training_goes_on_from_t5x(native, tmp_path, config):
  optimizer = optimizers.adafactor()
  converted = training_state.convert(
    native, tmp_path / 'run', config, optimizer, first_step=3
  )
  assert converted.checkpoint == tmp_path / 'run' / 'checkpoint_3'
  assert converted.t5x_step == 0
  expected = from_t5x.load_params(native, config)
  template = {
    'params': expected,
    'opt_state': jax.eval_shape(optimizer.transformation.init, expected),
    'step': np.int32(0),
  }
  store = orbax_io.CheckpointStore(tmp_path / 'run')
  restored = store.restore(3, template)
  store.close()
  assert restored['step'] == 3
  assert_same(restored['params'], expected)
  with pytest.raises(errors.ConfigError, match='already holds checkpoint_3'):
    training_state.convert(
      native, tmp_path / 'run', config, optimizer, first_step=3
    )
