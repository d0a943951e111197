"""Layer weights, sampled layers and the layer-weighted loss."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from calm_jax import errors
from calm_jax.training import losses

LAYERS, BATCH, LENGTH, EMB, VOCAB = 8, 2, 5, 4, 9


def test_layer_weights():
  assert losses.LinearLayerWeights().weights(4) == (0.1, 0.2, 0.3, 0.4)
  assert losses.UniformLayerWeights().weights(4) == (0.25,) * 4
  assert losses.LastLayerOnly().weights(3) == (0.0, 0.0, 1.0)
  for weights in (losses.LinearLayerWeights(), losses.UniformLayerWeights()):
    assert sum(weights.weights(8)) == pytest.approx(1.0)


# With linear weights over 7 inner layers (sum 28) the drawn layers change only
# at multiples of 1/28 of the offset: the midpoints between them are an exact
# enumeration of all draws.
INNER_WEIGHTS = losses.LinearLayerWeights().weights(LAYERS)[:-1]
OFFSETS = (np.arange(28) + 0.5) / 28


@pytest.mark.parametrize('num_sampled', [1, 2, 3, 6])
def test_systematic_layers_are_drawn_in_proportion(num_sampled):
  draws = np.stack(
    [
      losses.systematic_layers(offset, INNER_WEIGHTS, num_sampled)
      for offset in OFFSETS
    ]
  )
  counts = np.bincount(draws.ravel(), minlength=LAYERS - 1)
  # Layer i of weight i/28 is expected num_sampled * i / 28 times per draw.
  assert counts.tolist() == [num_sampled * i for i in range(1, LAYERS)]


def test_systematic_layers_do_not_repeat_where_they_need_not():
  for offset in OFFSETS:
    draw = np.asarray(losses.systematic_layers(offset, INNER_WEIGHTS, 4))
    assert len(set(draw)) == 4


def toy():
  rng = np.random.default_rng(0)
  hidden = rng.normal(size=(LAYERS, BATCH, LENGTH, EMB)).astype(np.float32)
  kernel = rng.normal(size=(EMB, VOCAB)).astype(np.float32)
  targets = rng.integers(1, VOCAB, (BATCH, LENGTH))
  loss_weights = np.ones((BATCH, LENGTH), np.float32)
  loss_weights[1, 3:] = 0
  return jnp.asarray(hidden), kernel, targets, loss_weights


def layer_means(hidden, kernel, targets, loss_weights):
  """Each layer's mean cross-entropy, in a plain loop over tokens."""
  means = []
  for layer in np.asarray(hidden, np.float64):
    total = 0.0
    for b, t in np.argwhere(loss_weights > 0):
      log_softmax = scipy.special.log_softmax(layer[b, t] @ kernel)
      total -= log_softmax[targets[b, t]]
    means.append(total / loss_weights.sum())
  return np.array(means)


def layered_loss(hidden, kernel, targets, loss_weights, selection):
  return losses.layer_weighted_loss(
    hidden, lambda h, _: h @ kernel, targets, loss_weights, selection
  )


@pytest.mark.parametrize(
  'layer_weights',
  [
    losses.LinearLayerWeights(),
    losses.UniformLayerWeights(),
    losses.LastLayerOnly(),
  ],
)
def test_all_layers_equal_a_loop_over_tokens(layer_weights):
  hidden, kernel, targets, loss_weights = toy()
  weights = layer_weights.weights(LAYERS)
  selection = losses.select_layers(None, weights, None)
  result = layered_loss(hidden, kernel, targets, loss_weights, selection)
  means = layer_means(*toy())
  np.testing.assert_allclose(result.loss, np.dot(weights, means), rtol=1e-5)
  read_out = np.array(weights) > 0
  np.testing.assert_array_equal(
    result.layer_tokens, loss_weights.sum() * read_out
  )
  np.testing.assert_allclose(
    result.layer_loss, means * loss_weights.sum() * read_out, rtol=1e-5
  )
  is_correct = np.argmax(hidden @ kernel, axis=-1) == targets
  np.testing.assert_array_equal(
    result.layer_correct,
    np.sum(is_correct * loss_weights, axis=(1, 2)) * read_out,
  )


def test_gradient_through_recomputed_logits_equals_plain_autodiff():
  hidden, kernel, targets, loss_weights = toy()
  weights = losses.LinearLayerWeights().weights(LAYERS)
  selection = losses.select_layers(None, weights, None)

  def plain(hidden, kernel):
    log_softmax = jax.nn.log_softmax(hidden @ kernel)
    picked = jnp.sum(log_softmax * jax.nn.one_hot(targets, VOCAB), axis=-1)
    means = -jnp.sum(picked * loss_weights, axis=(1, 2)) / loss_weights.sum()
    return jnp.dot(jnp.asarray(weights), means)

  def layered(hidden, kernel):
    return layered_loss(hidden, kernel, targets, loss_weights, selection).loss

  expected = jax.grad(plain, argnums=(0, 1))(hidden, kernel)
  actual = jax.grad(layered, argnums=(0, 1))(hidden, kernel)
  for a, e in zip(actual, expected, strict=True):
    np.testing.assert_allclose(a, e, atol=1e-6)


@pytest.mark.parametrize('num_sampled', [1, 2, 3])
def test_sampled_loss_and_gradient_are_unbiased(num_sampled, monkeypatch):
  hidden, kernel, targets, loss_weights = toy()
  weights = losses.LinearLayerWeights().weights(LAYERS)

  @jax.jit
  def loss_at(kernel, offset):
    monkeypatch.setattr(losses.jax.random, 'uniform', lambda key: offset)
    selection = losses.select_layers(None, weights, num_sampled)
    monkeypatch.undo()
    return layered_loss(hidden, kernel, targets, loss_weights, selection).loss

  sampled = [jax.value_and_grad(loss_at)(kernel, x) for x in OFFSETS]
  selection = losses.select_layers(None, weights, None)
  full = jax.value_and_grad(
    lambda kernel: (
      layered_loss(hidden, kernel, targets, loss_weights, selection).loss
    )
  )(kernel)
  np.testing.assert_allclose(
    np.mean([loss for loss, _ in sampled]), full[0], rtol=1e-5
  )
  np.testing.assert_allclose(
    np.mean([gradient for _, gradient in sampled], axis=0), full[1], atol=1e-6
  )


@pytest.mark.parametrize(
  ('num_sampled', 'expected'), [(None, 8), (0, 1), (1, 2), (3, 4), (7, 8)]
)
def test_only_selected_layers_meet_the_vocabulary(num_sampled, expected):
  hidden, kernel, targets, loss_weights = toy()
  weights = losses.LinearLayerWeights().weights(LAYERS)

  def loss(key):
    selection = losses.select_layers(key, weights, num_sampled)
    return layered_loss(hidden, kernel, targets, loss_weights, selection).loss

  equations = jax.make_jaxpr(loss)(jax.random.key(0)).jaxpr.eqns
  lengths = [
    equation.params['length']
    for equation in equations
    if equation.primitive.name == 'scan'
    and any(x.aval.shape[1:] == hidden.shape[1:] for x in equation.invars)
  ]
  assert lengths == [expected]


def test_last_layer_is_always_read_out_once():
  weights = losses.UniformLayerWeights().weights(LAYERS)
  for seed in range(20):
    indices, _ = losses.select_layers(jax.random.key(seed), weights, 2)
    assert np.asarray(indices).tolist().count(LAYERS - 1) == 1
    assert indices[-1] == LAYERS - 1


def test_batch_of_padding_alone_has_loss_zero():
  hidden, kernel, targets, loss_weights = toy()
  selection = losses.select_layers(
    None, losses.LinearLayerWeights().weights(LAYERS), None
  )
  result = layered_loss(
    hidden, kernel, targets, np.zeros_like(loss_weights), selection
  )
  assert float(result.loss) == 0.0


def test_negative_sample_size_is_refused():
  with pytest.raises(errors.ConfigError, match='at least 0, got -1'):
    losses.select_layers(None, (0.5, 0.5), -1)
