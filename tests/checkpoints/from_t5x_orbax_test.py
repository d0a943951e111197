"""T5X's checkpoints through Orbax: the layout that t5x_test saw T5X write."""

import shutil

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from testing import tiny_t5

from calm_jax import errors
from calm_jax.checkpoints import from_t5x, load, param_trees


@pytest.fixture(scope='module')
def written(tmp_path_factory):
  """A MODEL_DIR as T5X leaves it, and the parameters in it."""
  config = tiny_t5.tiny_config(tied=False)
  params = jax.tree.map(np.asarray, tiny_t5.tiny_params(config))
  state = {'step': np.int32(7), 'param_states': {'a': np.ones(3, np.float32)}}
  model_dir = tmp_path_factory.mktemp('t5x_orbax')
  options = ocp.CheckpointManagerOptions(step_prefix='checkpoint')
  with ocp.CheckpointManager(model_dir, options=options) as manager:
    tree = ocp.args.PyTreeSave({'target': params, 'state': state})
    manager.save(7, args=ocp.args.Composite(state=tree))
  return model_dir, config, params


@pytest.mark.parametrize('name', ['', 'checkpoint_7'])
def test_parameters_and_classifiers_come_back(written, name):
  model_dir, config, params = written
  loaded = load.load_model(model_dir / name, config)
  found = param_trees.flatten(loaded.params)
  expected = param_trees.flatten(params)
  assert found.keys() == expected.keys()
  for key, array in expected.items():
    assert found[key].dtype == np.float32
    np.testing.assert_array_equal(found[key], array)


def test_another_network_is_refused_by_name(written):
  model_dir, config, _ = written
  with pytest.raises(errors.DataError, match='wi_0/kernel is'):
    load.load_model(model_dir, config.replace(mlp_dim=8))


def test_a_damaged_one_is_refused(written, tmp_path):
  model_dir, config, _ = written
  checkpoint = tmp_path / 'checkpoint_7'
  shutil.copytree(model_dir / 'checkpoint_7', checkpoint)
  data = max(checkpoint.rglob('d/*'), key=lambda path: path.stat().st_size)
  data.write_bytes(data.read_bytes()[:100])
  assert from_t5x.is_t5x(checkpoint)
  with pytest.raises(errors.DataError, match='damaged'):
    load.load_model(checkpoint, config)
