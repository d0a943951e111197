"""Losses of exit classifiers: does a layer's best token agree with the last's?

Between `early_exit.classifiers`, which gives the logits, and `training`. L
layers; classifiers judge layers 1..L-1.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def agreement(
  predictions: Int[Array, 'layers batch length'],
) -> Bool[Array, 'inner batch length']:
  """Labels: layer i's best token is layer L's (CALM Sec. 3.5), i = 1..L-1."""
  return predictions[:-1] == predictions[-1]


def independent_loss(
  logits: Float[Array, 'inner batch length'],
  labels: Bool[Array, 'inner batch length'],
  weights: Float[Array, 'inner batch length'],
  *,
  balanced: bool = False,
) -> jax.Array:
  """Binary cross-entropy, averaged over tokens, then evenly over layers.

  Args:
    logits: of agreement.
    labels: from `agreement`.
    weights: 1 for tokens that count, 0 for others.
    balanced: agreeing and disagreeing tokens of a layer weigh the same in sum.
      A layer without one of the two kinds is judged by the other alone.

  Returns:
    Scalar.
  """
  labels = labels.astype(jnp.float32)
  losses = _binary_cross_entropy(logits, labels)
  positive, negative = labels * weights, (1.0 - labels) * weights
  if not balanced:
    return jnp.mean(_mean(losses, weights))
  sides = jnp.stack([_mean(losses, positive), _mean(losses, negative)])
  is_there = jnp.stack([_sum(positive) > 0, _sum(negative) > 0])
  of_layer = jnp.sum(sides, axis=0) / jnp.maximum(jnp.sum(is_there, axis=0), 1)
  return jnp.mean(of_layer)


def geometric_loss(
  logits: Float[Array, 'inner batch length'],
  labels: Bool[Array, 'inner batch length'],
  weights: Float[Array, 'batch length'],
) -> jax.Array:
  """The geometric-like loss (Elbayad et al. 2020; CALM found it worse).

  A token leaves at layer i with probability p_i prod_{j<i} (1 - p_j), and at
  layer L with what is left; these add up to 1. The loss is the cross-entropy of
  this distribution at the first layer that agrees with the last one.

  Args:
    logits: of the p_i.
    labels: from `agreement`.
    weights: 1 for tokens that count.

  Returns:
    Scalar, the mean over tokens.
  """
  log_leave = exit_log_probs(logits)
  agrees = jnp.concatenate([labels, jnp.ones_like(labels[:1])])
  first = jnp.argmax(agrees, axis=0)
  chosen = jnp.take_along_axis(log_leave, first[None], axis=0)[0]
  return -jnp.sum(chosen * weights) / jnp.maximum(jnp.sum(weights), 1.0)


def exit_log_probs(
  logits: Float[Array, 'inner batch length'],
) -> Float[Array, 'layers batch length']:
  """log P(a token leaves at layer i), i = 1..L, from independent decisions."""
  stays = jax.nn.log_sigmoid(-logits)
  before = jnp.cumsum(stays, axis=0) - stays
  inner = jax.nn.log_sigmoid(logits) + before
  return jnp.concatenate([inner, jnp.sum(stays, axis=0, keepdims=True)])


def _binary_cross_entropy(logits, labels):
  return -(
    labels * jax.nn.log_sigmoid(logits)
    + (1.0 - labels) * jax.nn.log_sigmoid(-logits)
  )


def _sum(values):
  return jnp.sum(values, axis=(1, 2))


def _mean(values, weights):
  return _sum(values * weights) / jnp.maximum(_sum(weights), 1.0)
