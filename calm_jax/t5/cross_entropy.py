"""T5X's cross-entropy: z_loss, label smoothing, weights, normalizers.

`losses` applies it to the logits of one decoder layer at a time.
"""

import enum
from collections.abc import Mapping
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from calm_jax import errors


class SpecialLossNormalizingFactor(enum.Enum):
  """Loss normalizers that depend on the batch (T5X's names)."""

  NUM_REAL_TARGET_TOKENS = 1
  NUM_TOTAL_TARGET_TOKENS = 2


def _smoothing_probabilities(vocab_size: int, label_smoothing: float):
  """Probability of the target and of each other token under smoothing."""
  if not 0.0 <= label_smoothing < 1.0:
    raise errors.ConfigError(
      f'label_smoothing must be in [0, 1), got {label_smoothing}.'
    )
  return 1.0 - label_smoothing, label_smoothing / (vocab_size - 1)


def target_logits(
  logits: Float[Array, '*batch vocab'], targets: Int[Array, '*batch']
) -> Float[Array, '*batch']:
  """Logit of each target token."""
  return jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]


def _cross_entropy(logits, targets, z_loss, label_smoothing):
  confidence, low_confidence = _smoothing_probabilities(
    logits.shape[-1], label_smoothing
  )
  log_z = jax.nn.logsumexp(logits, axis=-1)
  expected_logit = (confidence - low_confidence) * target_logits(
    logits, targets
  )
  if label_smoothing:
    expected_logit += low_confidence * jnp.sum(logits, axis=-1)
  total_z_loss = z_loss * jnp.square(log_z)
  return log_z - expected_logit + total_z_loss, total_z_loss, log_z


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def cross_entropy_with_logits(
  logits: Float[Array, '*batch vocab'],
  targets: Int[Array, '*batch'],
  z_loss: float = 0.0,
  label_smoothing: float = 0.0,
) -> tuple[Float[Array, '*batch'], Float[Array, '*batch']]:
  """Cross-entropy plus `z_loss * log(Z)^2`, Z the softmax normalizer.

  T5X's function of this name takes one-hot targets; here they are token ids, so
  that no [.., vocab] array of targets exists. The gradient is written out: it
  needs one pass over the logits and stores nothing but them.

  Args:
    logits: unnormalized scores.
    targets: token ids.
    z_loss: coefficient of the auxiliary loss (T5X: 1e-4).
    label_smoothing: probability spread evenly over the other tokens.

  Returns:
    (loss including the z_loss term, the z_loss term), both per token. The
    second is for logging only: no gradient flows through it, as in T5X.
  """
  loss, total_z_loss, _ = _cross_entropy(
    logits, targets, z_loss, label_smoothing
  )
  return loss, total_z_loss


def _cross_entropy_fwd(logits, targets, z_loss, label_smoothing):
  loss, total_z_loss, log_z = _cross_entropy(
    logits, targets, z_loss, label_smoothing
  )
  return (loss, total_z_loss), (logits, targets, log_z)


def _one_hot_mask(logits, targets):
  # A comparison with iota fuses into the gradient's only pass over the logits;
  # the gradient of a gather would be a scatter into zeros.
  positions = jax.lax.broadcasted_iota(
    targets.dtype, logits.shape, logits.ndim - 1
  )
  return positions == targets[..., None]


def _cross_entropy_bwd(z_loss, label_smoothing, residuals, cotangents):
  logits, targets, log_z = residuals
  confidence, low_confidence = _smoothing_probabilities(
    logits.shape[-1], label_smoothing
  )
  soft_targets = jnp.where(
    _one_hot_mask(logits, targets), confidence, low_confidence
  )
  # d log_z / d logits = softmax; the z_loss term adds 2 z log_z of it.
  probabilities = jnp.exp(logits - log_z[..., None])
  scale = (1.0 + 2.0 * z_loss * log_z)[..., None]
  gradient = cotangents[0][..., None] * (scale * probabilities - soft_targets)
  return gradient.astype(logits.dtype), None


cross_entropy_with_logits.defvjp(_cross_entropy_fwd, _cross_entropy_bwd)


def _smoothing_constant(vocab_size: int, label_smoothing: float) -> float:
  """Entropy of the smoothed target: what a perfect model would still pay."""
  confidence, low_confidence = _smoothing_probabilities(
    vocab_size, label_smoothing
  )
  return -(
    confidence * np.log(confidence)
    + (vocab_size - 1) * low_confidence * np.log(low_confidence + 1e-20)
  )


def compute_weighted_cross_entropy(
  logits: Float[Array, '*batch vocab'],
  targets: Int[Array, '*batch'],
  weights: Float[Array, '*batch'] | None = None,
  label_smoothing: float = 0.0,
  z_loss: float = 0.0,
  loss_normalizing_factor: float | SpecialLossNormalizingFactor | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Sum of the tokens' cross-entropies, with T5X's conventions.

  The entropy of the smoothed targets is subtracted, so that a perfect model has
  loss 0 whatever `label_smoothing` is.

  Args:
    logits: unnormalized scores.
    targets: token ids.
    weights: weight of each token, or None for 1 everywhere.
    label_smoothing: probability spread evenly over the other tokens.
    z_loss: coefficient of the auxiliary loss.
    loss_normalizing_factor: both losses are divided by it; None keeps the sums.

  Returns:
    (loss including z_loss, z_loss, sum of weights), three scalars.

  Raises:
    ConfigError: label_smoothing is outside [0, 1).
  """
  loss, total_z_loss = cross_entropy_with_logits(
    logits, targets, z_loss, label_smoothing
  )
  loss -= _smoothing_constant(logits.shape[-1], label_smoothing)
  if weights is None:
    weights = jnp.ones(targets.shape, loss.dtype)
  weight_sum = jnp.sum(weights)
  normalizer = _normalizer(loss_normalizing_factor, weights)
  return (
    jnp.sum(loss * weights) / normalizer,
    jnp.sum(total_z_loss * weights) / normalizer,
    weight_sum,
  )


def _normalizer(factor, weights):
  if factor is None:
    return 1.0
  if factor is SpecialLossNormalizingFactor.NUM_REAL_TARGET_TOKENS:
    return jnp.maximum(jnp.sum(weights), 1.0)
  if factor is SpecialLossNormalizingFactor.NUM_TOTAL_TARGET_TOKENS:
    return float(weights.size)
  return factor


def loss_weights(
  batch: Mapping[str, Array],
) -> Float[Array, 'batch length']:
  """Weights of T5X's target features: as given, else 1 and 0 for padding."""
  if 'decoder_loss_weights' in batch:
    return batch['decoder_loss_weights'].astype(jnp.float32)
  return (batch['decoder_target_tokens'] > 0).astype(jnp.float32)
