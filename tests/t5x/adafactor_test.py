"""Adafactor goes on from T5X's accumulators as T5X itself does.

testdata/t5x_adafactor.npz was made by T5X's own Adafactor (commit cc342d4, with
min_dim_size_to_factor=8, so that small arrays are factored): its state at step
1003, two gradients, and its parameters after these.
"""

import jax
import numpy as np
import optax
import pytest
from conftest import TESTDATA
from testing import t5x_files

from calm_jax import errors
from calm_jax.checkpoints import param_trees
from calm_jax.t5x import adafactor as t5x_adafactor
from calm_jax.training import optimizers

BEFORE = 'before/'


def adafactor(**options):
  return optimizers.adafactor(
    learning_rate=1e-2, **{'min_dim_size_to_factor': 8} | options
  ).transformation


@pytest.fixture(scope='module')
def recorded():
  with np.load(TESTDATA / 't5x_adafactor.npz', allow_pickle=False) as arrays:
    return dict(arrays)


def part(arrays, prefix):
  return param_trees.unflatten(
    {
      name.removeprefix(prefix): array
      for name, array in arrays.items()
      if name.startswith(prefix)
    }
  )


@pytest.fixture
def state(recorded):
  return {
    name.removeprefix(BEFORE): array
    for name, array in recorded.items()
    if name.startswith(BEFORE)
  }


def template_of(transformation, state):
  return jax.eval_shape(transformation.init, part(state, 'target/'))


def two_updates(transformation, opt_state, params, recorded):
  @jax.jit
  def update(gradient, opt_state, params):
    updates, opt_state = transformation.update(gradient, opt_state, params)
    return optax.apply_updates(params, updates), opt_state

  for number in range(2):
    gradient = part(recorded, f'gradients/{number}/')
    params, opt_state = update(gradient, opt_state, params)
  return params


@pytest.fixture
def checkpoint(tmp_path, state):
  return t5x_files.write_native(tmp_path / 'checkpoint_1003', state)


def test_updates_are_those_of_t5x(checkpoint, recorded, state):
  params = part(state, 'target/')
  transformation = adafactor()
  opt_state = t5x_adafactor.read_opt_state(
    checkpoint, template_of(transformation, state)
  )
  params = two_updates(transformation, opt_state, params, recorded)
  expected = param_trees.flatten(part(recorded, 'after/'))
  start = param_trees.flatten(part(state, 'target/'))
  for name, array in param_trees.flatten(params).items():
    moved = np.abs(expected[name] - start[name]).max()
    assert moved > 1e-3
    np.testing.assert_allclose(array, expected[name], atol=1e-4 * moved)


def test_fresh_accumulators_would_move_elsewhere(recorded, state):
  """The test above can fail: the accumulators do matter."""
  params = part(state, 'target/')
  transformation = adafactor()
  opt_state = jax.tree.map(
    lambda x: np.zeros(x.shape, x.dtype), template_of(transformation, state)
  )
  params = two_updates(transformation, opt_state, params, recorded)
  name = 'encoder/mlp/wo/kernel'
  expected = recorded[f'after/{name}']
  moved = np.abs(expected - state[f'target/{name}']).max()
  ours = param_trees.flatten(params)[name]
  assert np.abs(ours - expected).max() > 0.1 * moved


def test_schedules_count_from_the_first_step_and_the_decay_goes_on(
  checkpoint, state
):
  template = template_of(adafactor(), state)
  assert t5x_adafactor.read_step(checkpoint) == 1003
  named = param_trees.flatten(
    t5x_adafactor.read_opt_state(checkpoint, template, first_step=7)
  )
  counts = sorted(int(x) for name, x in named.items() if name.endswith('count'))
  assert counts == [7, 1003]


def test_another_optimizer_is_refused(checkpoint, state):
  adam = optimizers.adamw().transformation
  with pytest.raises(errors.ConfigError, match='optimizers.adafactor'):
    t5x_adafactor.read_opt_state(checkpoint, template_of(adam, state))
  chained = optax.chain(adafactor(), optax.trace(0.9))
  with pytest.raises(errors.ConfigError, match='no momentum'):
    t5x_adafactor.read_opt_state(checkpoint, template_of(chained, state))


def test_what_is_factored_must_agree(checkpoint, state):
  template = template_of(adafactor(min_dim_size_to_factor=128), state)
  with pytest.raises(errors.DataError, match='min_dim_size_to_factor') as error:
    t5x_adafactor.read_opt_state(checkpoint, template)
  assert 'attention/out/kernel/v is (1,), must be (8, 8)' in str(error.value)


def test_momentum_of_t5x_is_refused(tmp_path, state):
  name = 'state/param_states/encoder/mlp/wo/kernel/m'
  checkpoint = t5x_files.write_native(
    tmp_path / 'c', state | {name: np.zeros((12, 8), np.float32)}
  )
  template = template_of(adafactor(), state)
  with pytest.raises(errors.ConfigError, match='beta1; encoder/mlp/wo'):
    t5x_adafactor.read_opt_state(checkpoint, template)


def test_parameters_alone_have_no_state(tmp_path, state):
  target = {x: y for x, y in state.items() if x.startswith('target/')}
  checkpoint = t5x_files.write_native(tmp_path / 'c', target)
  with pytest.raises(errors.DataError, match='has no optimizer state'):
    t5x_adafactor.read_opt_state(checkpoint, template_of(adafactor(), state))
