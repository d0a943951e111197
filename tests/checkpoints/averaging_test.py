"""The mean of checkpoints, against NumPy."""

import jax
import numpy as np
import pytest

from calm_jax import errors
from calm_jax.checkpoints import averaging, orbax_io
from tests.testing import tiny_t5


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """(MODEL_DIR, configuration, parameters of its steps 1 to 3)."""
  config = tiny_t5.tiny_config(tied=True)
  params = tiny_t5.tiny_params(config)
  params = {x: params[x] for x in params if x != 'exit_classifiers'}
  directory = tmp_path_factory.mktemp('run')
  store = orbax_io.CheckpointStore(directory, keep=None)
  trees = []
  for step in (1, 2, 3):
    trees.append(jax.tree.map(lambda x, k=step: np.float32(x * k * k), params))
    store.save(step, {'params': trees[-1]})
  store.close()
  return directory, config, trees


def test_the_newest_ones_are_averaged(run):
  directory, config, trees = run
  found, steps = averaging.mean_of_newest(directory, config, 2)
  assert steps == [2, 3]
  jax.tree.map(
    lambda x, y, z: np.testing.assert_allclose(x, (y + z) / 2, rtol=1e-6),
    found, trees[1], trees[2],
  )  # fmt: skip


@pytest.mark.parametrize('count', [0, 4])
def test_too_few_are_told(run, count):
  directory, config, _ = run
  with pytest.raises(errors.DataError, match='it holds 3'):
    averaging.mean_of_newest(directory, config, count)
