"""Cross-entropy against one-hot targets in NumPy float64 and autodiff."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from calm_jax import errors
from calm_jax.t5 import cross_entropy

VOCAB_SIZE = 11


def random_logits(seed=0, shape=(3, 4)):
  rng = np.random.default_rng(seed)
  logits = rng.normal(0, 3, (*shape, VOCAB_SIZE)).astype(np.float32)
  return logits, rng.integers(0, VOCAB_SIZE, shape)


def soft_targets(targets, label_smoothing):
  one_hot = np.eye(VOCAB_SIZE)[targets]
  low = label_smoothing / (VOCAB_SIZE - 1)
  return one_hot * (1 - label_smoothing) + (1 - one_hot) * low


def one_hot_route(logits, targets, z_loss, label_smoothing):
  """The textbook formula on dense targets; NumPy or JAX arrays."""
  xp = np if isinstance(logits, np.ndarray) else jnp
  log_softmax = logits - xp.log(xp.sum(xp.exp(logits), axis=-1, keepdims=True))
  log_z = (logits - log_softmax)[..., 0]
  loss = -xp.sum(soft_targets(targets, label_smoothing) * log_softmax, axis=-1)
  return loss + z_loss * log_z**2, z_loss * log_z**2


OPTIONS = pytest.mark.parametrize(
  ('z_loss', 'label_smoothing'), [(0.0, 0.0), (1e-2, 0.0), (1e-2, 0.1)]
)


@OPTIONS
def test_values_equal_one_hot_route(z_loss, label_smoothing):
  logits, targets = random_logits()
  loss, z_term = cross_entropy.cross_entropy_with_logits(
    logits, targets, z_loss, label_smoothing
  )
  expected = one_hot_route(
    logits.astype(np.float64), targets, z_loss, label_smoothing
  )
  np.testing.assert_allclose(loss, expected[0], rtol=1e-5)
  np.testing.assert_allclose(z_term, expected[1], rtol=1e-5, atol=1e-7)


@OPTIONS
def test_gradient_equals_autodiff_of_one_hot_route(z_loss, label_smoothing):
  logits, targets = random_logits(1)
  weights = np.random.default_rng(2).normal(size=targets.shape)

  def written_out(logits):
    loss, _ = cross_entropy.cross_entropy_with_logits(
      logits, targets, z_loss, label_smoothing
    )
    return jnp.sum(loss * weights)

  def autodiff(logits):
    loss, _ = one_hot_route(logits, targets, z_loss, label_smoothing)
    return jnp.sum(loss * weights)

  logits = jnp.asarray(logits)
  np.testing.assert_allclose(
    jax.grad(written_out)(logits), jax.grad(autodiff)(logits), atol=2e-6
  )


def test_large_logits_stay_finite():
  logits = jnp.asarray([[1e4, 0.0, -1e4]])
  loss, _ = cross_entropy.cross_entropy_with_logits(logits, jnp.asarray([1]))
  np.testing.assert_allclose(loss, [1e4])
  gradient = jax.grad(
    lambda x: cross_entropy.cross_entropy_with_logits(x, jnp.asarray([1]))[0][0]
  )(logits)
  np.testing.assert_allclose(gradient, [[1.0, -1.0, 0.0]])


def test_perfect_smoothed_prediction_costs_nothing():
  _, targets = random_logits()
  logits = np.log(soft_targets(targets, 0.2)).astype(np.float32)
  loss, _, weight_sum = cross_entropy.compute_weighted_cross_entropy(
    logits, targets, label_smoothing=0.2
  )
  assert abs(float(loss)) < 1e-5
  assert float(weight_sum) == targets.size


def test_smoothing_subtracts_the_entropy_of_the_targets():
  logits, targets = random_logits(3)
  loss, _, _ = cross_entropy.compute_weighted_cross_entropy(
    logits, targets, label_smoothing=0.2
  )
  # Cross-entropy minus entropy is the divergence from targets to predictions.
  divergence = scipy.special.rel_entr(
    soft_targets(targets, 0.2), scipy.special.softmax(logits, axis=-1)
  )
  np.testing.assert_allclose(loss, divergence.sum(), rtol=1e-5)


def test_weights_and_normalizers():
  logits, targets = random_logits(4)
  weights = (np.arange(targets.size).reshape(targets.shape) % 3 > 0).astype(
    np.float32
  )
  per_token, z_terms = one_hot_route(
    logits.astype(np.float64), targets, 1e-2, 0.0
  )
  factors = cross_entropy.SpecialLossNormalizingFactor
  normalizers = {
    None: 1.0,
    7.0: 7.0,
    factors.NUM_REAL_TARGET_TOKENS: weights.sum(),
    factors.NUM_TOTAL_TARGET_TOKENS: weights.size,
  }
  for factor, normalizer in normalizers.items():
    loss, z_loss, weight_sum = cross_entropy.compute_weighted_cross_entropy(
      logits, targets, weights, z_loss=1e-2, loss_normalizing_factor=factor
    )
    expected = np.sum(per_token * weights) / normalizer
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    expected = np.sum(z_terms * weights) / normalizer
    np.testing.assert_allclose(z_loss, expected, rtol=1e-5)
    assert float(weight_sum) == weights.sum()


@pytest.mark.parametrize('label_smoothing', [-0.1, 1.0])
def test_label_smoothing_out_of_range_is_refused(label_smoothing):
  logits, targets = random_logits()
  with pytest.raises(errors.ConfigError, match='label_smoothing must be in'):
    cross_entropy.compute_weighted_cross_entropy(
      logits, targets, label_smoothing=label_smoothing
    )
