"""Losses of exit classifiers against loops in plain Python."""

import jax.numpy as jnp
import numpy as np

from calm_jax.training import consistency_losses

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(3, 2, 5)).astype(np.float32)
LABELS = RNG.random((3, 2, 5)) < 0.6
WEIGHTS = np.float32([[1, 1, 1, 1, 0], [1, 1, 0, 0, 0]])
TOKENS = [(0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (1, 1)]


def _entropy(layer, token):
  p = 1 / (1 + np.exp(-float(LOGITS[layer][token])))
  return -np.log(p if LABELS[layer][token] else 1 - p)


def _loss(labels=LABELS, **options):
  weights = np.broadcast_to(WEIGHTS, LABELS.shape)
  return float(
    consistency_losses.independent_loss(
      jnp.asarray(LOGITS), jnp.asarray(labels), jnp.asarray(weights), **options
    )
  )


def test_labels_compare_each_layer_with_the_last():
  # DL2-CALM and FREE pair layer k with the best token of layer k - 1, and
  # compare with layer L - 1: for best tokens 1, 2, 3, 3 they say 1, 0, 0.
  best = jnp.array([1, 2, 3, 3]).reshape(4, 1, 1)
  assert consistency_losses.agreement(best)[:, 0, 0].tolist() == [0, 0, 1]
  best = jnp.array([3, 2, 2, 3]).reshape(4, 1, 1)
  assert consistency_losses.agreement(best)[:, 0, 0].tolist() == [1, 0, 0]


def test_independent_loss_is_a_mean_over_tokens_then_layers():
  layers = [np.mean([_entropy(i, t) for t in TOKENS]) for i in range(3)]
  np.testing.assert_allclose(_loss(), np.mean(layers), rtol=1e-5)


def test_balanced_loss_weighs_both_answers_alike():
  layers = []
  for i in range(3):
    sides = [
      [_entropy(i, t) for t in TOKENS if LABELS[i][t] == side]
      for side in (False, True)
    ]
    layers.append(np.mean([np.mean(side) for side in sides if side]))
  np.testing.assert_allclose(_loss(balanced=True), np.mean(layers), rtol=1e-5)


def test_balanced_loss_without_one_class_is_finite():
  # T5X divides by the count of a class: NaN where it is absent.
  always = np.ones_like(LABELS)
  value = _loss(always, balanced=True)
  np.testing.assert_allclose(value, _loss(always), rtol=1e-5)
  assert np.isfinite(_loss(~always, balanced=True))


def test_exits_of_independent_decisions_add_up_to_one():
  log_probs = np.asarray(consistency_losses.exit_log_probs(jnp.asarray(LOGITS)))
  assert log_probs.shape == (4, 2, 5)
  np.testing.assert_allclose(np.exp(log_probs).sum(axis=0), 1.0, rtol=1e-5)


def test_geometric_loss_by_a_loop():
  # T5X renormalizes the scores by a softmax, and never asks the last layer to
  # be the exit of a token that no earlier layer gets right.
  total = 0.0
  for row, position in TOKENS:
    stays = 1.0
    for i in range(3):
      p = 1 / (1 + np.exp(-float(LOGITS[i, row, position])))
      if LABELS[i, row, position]:
        total -= np.log(stays * p)
        break
      stays *= 1 - p
    else:
      total -= np.log(stays)
  found = consistency_losses.geometric_loss(
    jnp.asarray(LOGITS), jnp.asarray(LABELS), jnp.asarray(WEIGHTS)
  )
  np.testing.assert_allclose(found, total / len(TOKENS), rtol=1e-5)
