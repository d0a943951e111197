"""Steps against the network's own logits and NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special
from testing import copying

from calm_jax.training import losses, optimizers, state, step


def setup(dropout_rate=0.0, seed=0):
  module = copying.copying_model(dropout_rate).module
  batch = copying.CopyingBatches().batch_at(3)
  optimizer = optimizers.adafactor(1e-2)
  train_state = state.create(module, optimizer, jax.random.key(seed), batch)
  return module, optimizer, train_state, batch


def all_logits(module, params, batch):
  """[layers, batch, length, vocab] of every layer, one layer at a time."""
  encoded = module.apply(
    {'params': params}, batch['encoder_input_tokens'], method='encode'
  )
  hidden = module.apply(
    {'params': params},
    encoded,
    batch['encoder_input_tokens'],
    batch['decoder_input_tokens'],
    batch['decoder_target_tokens'],
    method='decode_all_layers',
  )
  return np.stack(
    [
      module.apply({'params': params}, layer, method='logits_from_hidden')
      for layer in hidden
    ]
  ).astype(np.float64)


def mean_losses(logits, batch):
  """[layers] mean cross-entropy over real tokens."""
  log_softmax = scipy.special.log_softmax(logits, axis=-1)
  is_real = batch['decoder_target_tokens'] > 0
  targets = batch['decoder_target_tokens'][is_real]
  picked = log_softmax[:, is_real][:, np.arange(targets.size), targets]
  return -picked.mean(axis=1)


def test_last_layer_only_is_the_networks_usual_loss():
  module, _, train_state, batch = setup()
  logits = module.apply(
    {'params': train_state.params},
    batch['encoder_input_tokens'],
    batch['decoder_input_tokens'],
    batch['decoder_target_tokens'],
    enable_dropout=False,
  )
  objective = step.LayerWeightedObjective(losses.LastLayerOnly(), z_loss=0.0)
  result = step.compute_losses(
    module, objective, train_state.params, batch, jax.random.key(0)
  )
  expected = mean_losses(np.asarray(logits, np.float64)[None], batch)[0]
  np.testing.assert_allclose(result.loss, expected, rtol=1e-5)


def test_step_applies_the_gradient_of_the_papers_objective():
  module, optimizer, train_state, batch = setup()

  def objective_by_hand(params):
    total = 0.0
    for layer, weight in enumerate((1 / 6, 2 / 6, 3 / 6)):
      hidden = step.decoder_states(module, params, batch, None)[layer]
      logits = module.apply(
        {'params': params}, hidden, method='logits_from_hidden'
      )
      targets = batch['decoder_target_tokens']
      losses_ = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
      log_z = jax.nn.logsumexp(logits, axis=-1)
      is_real = targets > 0
      total += weight * jnp.sum((losses_ + 1e-4 * log_z**2) * is_real)
    return total / jnp.sum(targets > 0)

  loss, gradient = jax.jit(jax.value_and_grad(objective_by_hand))(
    train_state.params
  )
  updates, _ = optimizer.transformation.update(
    gradient, train_state.opt_state, train_state.params
  )
  expected = optax.apply_updates(train_state.params, updates)
  train_step = step.make_train_step(
    module, optimizer, step.LayerWeightedObjective(), seed=0
  )
  next_state, sums = train_step(train_state, batch)
  assert int(next_state.step) == 1
  np.testing.assert_allclose(sums['loss'], loss, rtol=1e-5)
  np.testing.assert_allclose(
    sums['gradient_norm'],
    np.linalg.norm(
      np.concatenate([x.ravel() for x in jax.tree.leaves(gradient)])
    ),
    rtol=1e-4,
  )
  for actual, wanted in zip(
    jax.tree.leaves(next_state.params),
    jax.tree.leaves(expected),
    strict=True,
  ):
    np.testing.assert_allclose(actual, wanted, atol=1e-5)


@pytest.mark.parametrize('num_sampled_layers', [None, 1])
def test_dropout_and_layers_depend_on_seed_and_step_only(num_sampled_layers):
  module, optimizer, train_state, batch = setup(dropout_rate=0.3)
  objective = step.LayerWeightedObjective(num_sampled_layers=num_sampled_layers)

  train_steps = [
    step.make_train_step(module, optimizer, objective, seed) for seed in (0, 1)
  ]

  def loss(seed, step_number):
    copied = jax.tree.map(jnp.copy, train_state)
    copied = copied.replace(step=jnp.int32(step_number))
    return float(train_steps[seed](copied, batch)[1]['loss'])

  assert loss(0, 5) == loss(0, 5)
  assert len({loss(0, 5), loss(0, 6), loss(1, 5)}) == 3


def test_evaluation_equals_numpy():
  module, _, train_state, batch = setup(dropout_rate=0.3)
  params = jax.tree.map(lambda x: 3 * x, train_state.params)
  sums = step.make_eval_step(module)(params, batch)
  logits = all_logits(module, params, batch)
  is_real = batch['decoder_target_tokens'] > 0
  predictions = np.argmax(logits, axis=-1)
  count = lambda matches: np.sum(matches & is_real, axis=(1, 2))  # noqa: E731
  np.testing.assert_array_equal(
    sums['layer_correct'], count(predictions == batch['decoder_target_tokens'])
  )
  agreement = count(predictions == predictions[-1])
  np.testing.assert_array_equal(sums['layer_agreement'], agreement)
  assert agreement[-1] == is_real.sum() == sums['target_tokens']
  assert 0 < agreement[0] < is_real.sum()
  np.testing.assert_allclose(
    sums['layer_loss'] / is_real.sum(), mean_losses(logits, batch), rtol=1e-5
  )


def test_padding_changes_nothing():
  module, _, train_state, batch = setup()
  padded = {
    name: np.pad(array, ((0, 2), (0, 3))) for name, array in batch.items()
  }
  eval_step = step.make_eval_step(module)
  expected = eval_step(train_state.params, batch)
  actual = eval_step(train_state.params, padded)
  for name, value in expected.items():
    np.testing.assert_allclose(actual[name], value, rtol=1e-5)
