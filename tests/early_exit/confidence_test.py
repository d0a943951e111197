import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from calm_jax.early_exit import confidence


def _random(*shape, scale=1.0, seed=0):
  rng = np.random.default_rng(seed)
  return np.float32(rng.normal(size=shape) * scale)


@pytest.mark.parametrize('scale', [0.1, 1.0, 30.0])
def test_prediction_equals_a_sorted_softmax(scale):
  logits = _random(6, 50, scale=scale)
  prediction = confidence.predict(jnp.asarray(logits))
  probabilities = scipy.special.softmax(np.float64(logits), axis=-1)
  ordered = np.sort(probabilities, axis=-1)
  np.testing.assert_array_equal(prediction.token, logits.argmax(axis=-1))
  np.testing.assert_allclose(
    prediction.gap, ordered[:, -1] - ordered[:, -2], atol=1e-6
  )
  np.testing.assert_allclose(
    prediction.log_prob, np.log(ordered[:, -1]), atol=1e-5
  )


def test_prediction_breaks_ties_by_the_lowest_id():
  prediction = confidence.predict(jnp.array([[1.0, 3.0, 3.0, 0.0]]))
  assert prediction.token.tolist() == [1]
  np.testing.assert_allclose(prediction.gap, [0.0], atol=1e-7)


def test_prediction_of_nan_logits_has_no_confidence():
  logits = jnp.array([[1.0, jnp.nan, 0.0], [5.0, 1.0, 0.0]])
  gap = np.asarray(confidence.predict(logits).gap)
  assert not gap[0] >= 0.0  # Neither exits at any threshold ...
  assert gap[1] > 0.9  # ... nor spoils the row beside it.


def test_softmax_gap_returns_its_prediction():
  hidden = jnp.asarray(_random(3, 8))
  value, prediction = confidence.SoftmaxTopTwoGap()(hidden, hidden, lambda h: h)
  np.testing.assert_array_equal(value, prediction.gap)
  np.testing.assert_array_equal(prediction.token, np.argmax(hidden, axis=-1))


def test_saturation_is_the_cosine_of_each_row():
  # T5X's release mixes rows: its cosine is right for batch size 1 only.
  hidden, below = _random(4, 8, seed=1), _random(4, 8, seed=2)
  value, prediction = confidence.HiddenStateSaturation()(
    jnp.asarray(hidden), jnp.asarray(below), None
  )
  expected = [
    np.dot(a, b) / np.sqrt(np.dot(a, a) * np.dot(b, b))
    for a, b in zip(np.float64(hidden), np.float64(below), strict=True)
  ]
  np.testing.assert_allclose(value, expected, atol=1e-6)
  assert prediction is None


def test_saturation_of_zeros_is_not_saturated():
  zeros = jnp.zeros((2, 4))
  value, _ = confidence.HiddenStateSaturation()(zeros, zeros, None)
  np.testing.assert_array_equal(value, [0.0, 0.0])
