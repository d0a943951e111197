"""CALM's layer-weighted training loss.

Stands between `t5.network`, which gives the hidden state after every decoder
layer, and `training.step`, which differentiates the result. Every layer is read
out through the same final norm and output embedding, as at inference time.
"""

import dataclasses
from collections.abc import Callable
from typing import Protocol

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from calm_jax import errors
from calm_jax.t5.cross_entropy import (
  compute_weighted_cross_entropy,
  target_logits,
)

# (hidden [batch, length, emb_dim], layer index from 0) -> logits [..., vocab].
LogitsFn = Callable[[jax.Array, jax.Array], jax.Array]

# Up to this many read-outs keep their logits for the backward pass; beyond it
# they are recomputed, so that memory does not grow with the number of layers.
_MAX_STORED_LOGITS = 3


# --- Weights of the layers ----------------------------------------------------


class LayerWeights(Protocol):
  """Weight of each decoder layer's loss in the training objective."""

  def weights(self, num_layers: int) -> tuple[float, ...]:
    """Weights of layers 1..num_layers; they sum to 1."""


@dataclasses.dataclass(frozen=True)
class LinearLayerWeights:
  """w_i = i / sum_j j: CALM's stage 1 (Schuster et al. 2022, Sec. 3.2)."""

  def weights(self, num_layers: int) -> tuple[float, ...]:
    total = num_layers * (num_layers + 1) / 2
    return tuple(i / total for i in range(1, num_layers + 1))


@dataclasses.dataclass(frozen=True)
class UniformLayerWeights:
  """w_i = 1 / num_layers."""

  def weights(self, num_layers: int) -> tuple[float, ...]:
    return (1.0 / num_layers,) * num_layers


@dataclasses.dataclass(frozen=True)
class LastLayerOnly:
  """The usual T5 loss: inner layers are not trained to predict."""

  def weights(self, num_layers: int) -> tuple[float, ...]:
    return (0.0,) * (num_layers - 1) + (1.0,)


# --- Choosing the layers to read out in one step ------------------------------


def systematic_layers(
  offset: jax.Array, inner_weights: tuple[float, ...], num_sampled: int
) -> Int[Array, 'num_sampled']:
  """Indices at the points (offset + j) / num_sampled of the weights' CDF.

  For `offset` uniform in [0, 1), layer i is drawn num_sampled * w_i / sum(w)
  times in expectation, and never twice where that number is at most 1
  (systematic sampling). Indices count from 0.
  """
  cdf = np.cumsum(inner_weights) / np.sum(inner_weights)
  points = (offset + jnp.arange(num_sampled)) / num_sampled
  indices = jnp.searchsorted(jnp.asarray(cdf[:-1]), points, side='right')
  return indices.astype(jnp.int32)


def select_layers(
  rng: jax.Array | None,
  layer_weights: tuple[float, ...],
  num_sampled_layers: int | None,
) -> tuple[Int[Array, 'selected'], Float[Array, 'selected']]:
  """Layers to read out in this step, and the weight of each one's loss.

  Args:
    rng: key of this step; unused where all layers are read out.
    layer_weights: weight of every layer.
    num_sampled_layers: None reads out all layers of positive weight, exactly
      the paper's loss. k reads out the last layer and k inner layers, drawn in
      proportion to their weights and all given the weight (sum of inner
      weights) / k, so that the expectation over draws is the full loss.

  Returns:
    (indices from 0, weights); the last layer is the last entry.

  Raises:
    ConfigError: num_sampled_layers is negative.
  """
  if num_sampled_layers is not None and num_sampled_layers < 0:
    raise errors.ConfigError(
      'num_sampled_layers must be None (all layers) or at least 0,'
      f' got {num_sampled_layers}.'
    )
  num_layers = len(layer_weights)
  inner_weights = layer_weights[:-1]
  positive = [i for i, weight in enumerate(inner_weights) if weight > 0]
  if num_sampled_layers is None or num_sampled_layers >= len(positive):
    indices = positive + [num_layers - 1]
    return jnp.asarray(indices), jnp.asarray(
      [layer_weights[i] for i in indices]
    )
  if num_sampled_layers == 0:
    return jnp.asarray([num_layers - 1]), jnp.asarray(layer_weights[-1:])
  inner = systematic_layers(
    jax.random.uniform(rng), inner_weights, num_sampled_layers
  )
  inner_weight = sum(inner_weights) / num_sampled_layers
  weights = (inner_weight,) * num_sampled_layers + layer_weights[-1:]
  return jnp.append(inner, num_layers - 1), jnp.asarray(weights)


# --- The layer-weighted loss --------------------------------------------------


@flax.struct.dataclass
class LayerLosses:
  """Result of `layer_weighted_loss`.

  Attributes:
    loss: weighted sum of the layers' losses per real target token, with z_loss.
    z_loss: the part of `loss` that is z_loss.
    layer_loss: [num_layers] loss of each layer summed over its tokens.
    layer_correct: [num_layers] tokens that the layer predicts right.
    layer_tokens: [num_layers] tokens that went into the two sums: 0 for a layer
      that was not read out.
  """

  loss: jax.Array
  z_loss: jax.Array
  layer_loss: jax.Array
  layer_correct: jax.Array
  layer_tokens: jax.Array


def layer_weighted_loss(
  hidden: Float[Array, 'layers batch length emb_dim'],
  logits_fn: LogitsFn,
  targets: Int[Array, 'batch length'],
  loss_weights: Float[Array, 'batch length'],
  selection: tuple[jax.Array, jax.Array],
  *,
  label_smoothing: float = 0.0,
  z_loss: float = 0.0,
) -> LayerLosses:
  """CALM's sum over layers of weight times cross-entropy (Sec. 3.2, stage 1).

  Only the selected layers meet the vocabulary: one after the other, so that at
  most a few [batch, length, vocab] arrays exist at a time.

  Args:
    hidden: states after each decoder layer, before the final norm.
    logits_fn: the shared read-out.
    targets: token ids.
    loss_weights: 1 for real tokens, 0 for padding.
    selection: (indices, weights) from `select_layers`.
    label_smoothing: see `cross_entropy`.
    z_loss: see `cross_entropy`.

  Returns:
    Losses, and per-layer sums for logging.
  """
  indices, weights = selection
  loss_weights = loss_weights.astype(jnp.float32)
  num_tokens = jnp.sum(loss_weights)

  def one_layer(layer_hidden, index):
    logits = logits_fn(layer_hidden, index).astype(jnp.float32)
    loss, layer_z_loss, _ = compute_weighted_cross_entropy(
      logits, targets, loss_weights, label_smoothing, z_loss
    )
    # The maximum is needed for the softmax anyway; an argmax costs more.
    is_correct = target_logits(logits, targets) >= jnp.max(logits, axis=-1)
    return loss, layer_z_loss, jnp.sum(is_correct * loss_weights)

  if indices.shape[0] > _MAX_STORED_LOGITS:
    one_layer = jax.checkpoint(one_layer, prevent_cse=False)
  _, (loss, layer_z_loss, correct) = jax.lax.scan(
    lambda carry, layer: (carry, one_layer(*layer)),
    None,
    (hidden[indices], indices),
  )
  zeros = jnp.zeros(hidden.shape[0], jnp.float32)
  return LayerLosses(
    loss=jnp.dot(weights, loss) / jnp.maximum(num_tokens, 1.0),
    z_loss=jnp.dot(weights, layer_z_loss) / jnp.maximum(num_tokens, 1.0),
    layer_loss=zeros.at[indices].add(loss),
    layer_correct=zeros.at[indices].add(correct),
    layer_tokens=zeros.at[indices].add(num_tokens),
  )
