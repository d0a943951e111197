"""A batch in parts against the whole batch, and against parts put together."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from testing import copying

from calm_jax import errors
from calm_jax.training import microbatches, optimizers, state, step

# Its update is the gradient.
SGD = optimizers.Optimizer(optax.sgd(1.0), optax.constant_schedule(1.0))


def weighted_batch():
  """Rows of different length and weight; one microbatch of 4 weighs nothing."""
  batch = copying.CopyingBatches().batch_at(3)
  rng = np.random.default_rng(0)
  weights = batch['decoder_loss_weights']
  weights *= rng.uniform(0.1, 2.0, weights.shape).astype(np.float32)
  weights[2::4] = 0.0
  return batch


@pytest.fixture(scope='module')
def stepped():
  """(gradients, sums) of one step, by the number of microbatches."""
  module = copying.copying_model().module
  batch = weighted_batch()

  def run(num_microbatches):
    objective = step.LayerWeightedObjective(
      num_sampled_layers=1,
      label_smoothing=0.1,
      num_microbatches=num_microbatches,
    )
    before = state.create(module, SGD, jax.random.key(0), batch)
    kept = jax.tree.map(jnp.copy, before.params)
    after, sums = step.make_train_step(module, SGD, objective, 0)(before, batch)
    return jax.tree.map(jnp.subtract, kept, after.params), sums

  return {count: run(count) for count in (None, 4)}


def test_the_gradient_is_that_of_the_whole_batch(stepped):
  (whole, _), (parts, _) = stepped[None], stepped[4]
  size = max(float(jnp.max(jnp.abs(x))) for x in jax.tree.leaves(whole))
  assert size > 0.01
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6 * size, rtol=1e-4),
    parts,
    whole,
  )


def test_the_metrics_are_those_of_the_whole_batch(stepped):
  (_, whole), (_, parts) = stepped[None], stepped[4]
  assert whole.keys() == parts.keys()
  assert float(whole['loss']) != float(whole['z_loss']) > 0
  for name in whole:
    np.testing.assert_allclose(parts[name], whole[name], rtol=2e-5)


def test_parts_weighed_by_their_tokens_are_the_whole():
  """The second route: a loss of each part, put together in NumPy."""
  module = copying.copying_model().module
  batch = weighted_batch()
  params = state.create(module, SGD, jax.random.key(0), batch).params
  loss = jax.jit(
    lambda rows: (
      step.compute_losses(
        module, step.LayerWeightedObjective(), params, rows, jax.random.key(0)
      ).loss
    )
  )
  parts = microbatches.split(batch, 4)
  parts = [{name: rows[i] for name, rows in parts.items()} for i in range(4)]
  tokens = np.array([x['decoder_loss_weights'].sum() for x in parts])
  assert tokens[2] == 0.0 and len(set(tokens)) == 4
  together = np.dot([loss(part) for part in parts], tokens) / tokens.sum()
  np.testing.assert_allclose(together, loss(batch), rtol=1e-5)


def test_rows_are_dealt_out_in_turn():
  parts = microbatches.split({'x': jnp.arange(12).reshape(6, 2)}, 3)
  assert parts['x'][:, :, 0].tolist() == [[0, 6], [2, 8], [4, 10]]


def test_each_part_has_a_dropout_of_its_own():
  module = copying.copying_model(dropout_rate=0.3).module
  batch = copying.CopyingBatches().batch_at(3)
  params = state.create(module, SGD, jax.random.key(0), batch).params
  objective = step.LayerWeightedObjective(num_microbatches=2)
  losses = [
    float(
      step.compute_losses(
        module, objective, params, batch, jax.random.key(0), index
      ).loss
    )
    for index in (0, 1, 0)
  ]
  assert losses[0] == losses[2] != losses[1]


@pytest.mark.parametrize('count', [0, -1, 2.0, True])
def test_the_number_is_checked(count):
  with pytest.raises(errors.ConfigError, match='at least 1'):
    step.LayerWeightedObjective(num_microbatches=count)


def test_the_number_must_divide_the_batch():
  with pytest.raises(errors.ConfigError, match='Valid: 1, 2, 3, 6'):
    microbatches.split({'x': jnp.ones((6, 2))}, 4)
