"""Measures on given states; `layer_loop_test` runs them in the decoder."""

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from testing import tiny_t5

from calm_jax import errors
from calm_jax.early_exit.engine import clock, confidence, prediction
from calm_jax.early_exit.measures import saturation, softmax, static, top_k
from calm_jax.t5 import rows as rows_lib


def _random(*shape, scale=1.0, seed=0):
  rng = np.random.default_rng(seed)
  return np.float32(rng.normal(size=shape) * scale)


@pytest.mark.parametrize('scale', [0.1, 1.0, 30.0])
def test_prediction_equals_a_sorted_softmax(scale):
  logits = _random(6, 50, scale=scale)
  predicted = prediction.predict(jnp.asarray(logits))
  probabilities = scipy.special.softmax(np.float64(logits), axis=-1)
  ordered = np.sort(probabilities, axis=-1)
  np.testing.assert_array_equal(predicted.token, logits.argmax(axis=-1))
  np.testing.assert_allclose(
    predicted.gap, ordered[:, -1] - ordered[:, -2], atol=1e-6
  )
  np.testing.assert_allclose(
    predicted.log_prob, np.log(ordered[:, -1]), atol=1e-5
  )


def test_prediction_breaks_ties_by_the_lowest_id():
  predicted = prediction.predict(jnp.array([[1.0, 3.0, 3.0, 0.0]]))
  assert predicted.token.tolist() == [1]
  np.testing.assert_allclose(predicted.gap, [0.0], atol=1e-7)


def test_prediction_of_nan_logits_has_no_confidence():
  logits = jnp.array([[1.0, jnp.nan, 0.0], [5.0, 1.0, 0.0]])
  gap = np.asarray(prediction.predict(logits).gap)
  assert not gap[0] >= 0.0  # Neither exits at any threshold ...
  assert gap[1] > 0.9  # ... nor spoils the row beside it.


def _view(hidden, previous_hidden=None, layer=1, **kwargs):
  """A view whose logits are the hidden state itself."""
  hidden = jnp.asarray(hidden)
  defaults = {
    'layer': layer,
    'num_layers': 4,
    'exit_number': layer - 1,
    'hidden': hidden,
    'previous_hidden': jnp.asarray(
      hidden if previous_hidden is None else previous_hidden
    ),
    'clock': clock.Clock(jnp.int32(0), jnp.zeros(len(hidden), int)),
    'rows': rows_lib.Rows.all(len(hidden)),
    'kept_states': hidden[:, None],
    'is_full_model': jnp.zeros(len(hidden), bool),
    'params': {},
    'network': lambda states, method: states,
    'predict': prediction.predict,
    'prepared': top_k.OutputColumns(None),
  }
  return confidence.LayerView(**defaults | kwargs)


def test_softmax_gap_returns_its_prediction():
  hidden = _random(3, 8)
  answer = softmax.SoftmaxTopTwoGap()(_view(hidden))
  np.testing.assert_array_equal(answer.confidence, answer.prediction.gap)
  np.testing.assert_array_equal(
    answer.prediction.token, np.argmax(hidden, axis=-1)
  )


def test_maximum_and_entropy_equal_scipy():
  hidden = _random(5, 9, scale=3.0)
  probabilities = scipy.special.softmax(np.float64(hidden), axis=-1)
  answer = softmax.SoftmaxMaximum()(_view(hidden))
  np.testing.assert_allclose(
    answer.confidence, probabilities.max(axis=-1), atol=1e-6
  )
  answer = softmax.SoftmaxEntropy()(_view(hidden))
  expected = 1 - scipy.special.entr(probabilities).sum(axis=-1) / np.log(9)
  np.testing.assert_allclose(answer.confidence, expected, atol=1e-6)


def test_entropy_is_0_for_a_guess_and_1_for_certainty():
  logits = np.float32([[0.0] * 6, [500.0] + [0.0] * 5])
  answer = softmax.SoftmaxEntropy()(_view(logits))
  np.testing.assert_allclose(answer.confidence, [0.0, 1.0], atol=1e-6)


def test_state_confidence_is_the_cosine_of_each_row():
  # T5X's release takes inner products across the batch and one norm of all
  # rows: its cosine is right for batch size 1 only.
  hidden, below = _random(4, 8, seed=1), _random(4, 8, seed=2)
  view = _view(hidden, below)
  answer = saturation.HiddenStateSaturation()(view)
  expected = np.array([
    np.dot(a, b) / np.sqrt(np.dot(a, a) * np.dot(b, b))
    for a, b in zip(np.float64(hidden), np.float64(below), strict=True)
  ])  # fmt: skip
  np.testing.assert_allclose(answer.confidence, expected, atol=1e-6)
  assert answer.prediction is None
  across_rows = (hidden @ below.T) / (
    np.linalg.norm(hidden) * np.linalg.norm(below)
  )
  assert np.abs(np.diag(across_rows) - expected).max() > 0.1
  rescaled = saturation.HiddenStateSaturation(rescale=True)(view)
  np.testing.assert_allclose(rescaled.confidence, (1 + expected) / 2, atol=1e-6)


def test_saturation_of_zeros_is_not_saturated():
  zeros = jnp.zeros((2, 4))
  answer = saturation.HiddenStateSaturation()(_view(zeros, zeros))
  np.testing.assert_array_equal(answer.confidence, [0.0, 0.0])


def test_a_threshold_of_i_over_l_is_reached_at_layer_i_and_not_before():
  for num_layers in range(2, 49):
    thresholds = [np.float32(i / num_layers) for i in range(1, num_layers + 1)]
    shares = [
      float(static.layer_share(i, num_layers)) for i in range(1, num_layers + 1)
    ]
    for i, threshold in enumerate(thresholds):
      first = next(j for j, share in enumerate(shares) if share >= threshold)
      assert first == i, (num_layers, i)


def _run(measure, logits_of_exits):
  """Answers at exits 1, 2, ...; columns of the output embedding are one-hot."""
  vocabulary = len(logits_of_exits[0][0])

  def network(*args, method):
    if method == 'logits_from_hidden':
      return args[0]
    if method == 'output_columns':
      return jnp.eye(vocabulary)[args[0]]
    return jnp.einsum('be,bce->bc', *args)

  state, answers = measure.start_token(None, 1), []
  for number, logits in enumerate(logits_of_exits):
    view = _view(
      np.float32(logits), layer=number + 1, network=network, token_state=state
    )
    answers.append(measure(view))
    state = answers[-1].token_state
  return answers


_TWO_EXITS = ([[3.0, 2.0, 1.0, 0.0]], [[0.0, 1.0, 2.5, 9.0]])


def test_top_k_chooses_among_what_the_first_exit_kept():
  # Token 3 is the best at exit 2, but was not among the two kept at exit 1.
  _, second = _run(top_k.TopKPropagation(k=2), _TWO_EXITS)
  assert second.prediction.token.tolist() == [1]
  # The tokens outside weigh what they weighed at exit 1: exp(1) + exp(0).
  weights = np.exp([0.0, 1.0, 1.0, 0.0])
  expected = (weights[1] - weights[0]) / weights.sum()
  np.testing.assert_allclose(second.confidence, [expected], rtol=1e-6)


def test_top_k_renormalized_over_k_inflates_the_confidence():
  # DL2-CALM takes the softmax over the K logits alone.
  corrected = _run(top_k.TopKPropagation(k=2), _TWO_EXITS)
  inflated = _run(top_k.TopKPropagation(k=2, renormalize=True), _TWO_EXITS)
  for a, b in zip(corrected, inflated, strict=True):
    assert b.confidence[0] > a.confidence[0] + 0.05
  expected = np.tanh(0.5)  # Of logits 0 and 1.
  np.testing.assert_allclose(inflated[1].confidence, [expected], rtol=1e-6)


def test_top_k_at_the_first_exit_is_the_exact_softmax_response():
  first, _ = _run(top_k.TopKPropagation(k=2), _TWO_EXITS)
  gap, _ = _run(softmax.SoftmaxTopTwoGap(), _TWO_EXITS)
  np.testing.assert_allclose(first.confidence, gap.confidence, rtol=1e-6)


def test_top_k_of_the_whole_vocabulary_is_the_softmax_response_exactly():
  for ours, plain in zip(
    _run(top_k.TopKPropagation(k=4), _TWO_EXITS),
    _run(softmax.SoftmaxTopTwoGap(), _TWO_EXITS),
    strict=True,
  ):
    assert ours.confidence.tolist() == plain.confidence.tolist()
    assert ours.prediction.token.tolist() == plain.prediction.token.tolist()


def test_top_k_ties_go_to_the_lowest_id():
  exits = ([[1.0, 5.0, 5.0, 5.0, 0.0]], [[9.0, 2.0, 2.0, 2.0, 9.0]])
  for answer in _run(top_k.TopKPropagation(k=3), exits):
    assert answer.prediction.token.tolist() == [1]


@pytest.mark.parametrize(
  'kwargs, said',
  [
    ({'k': 1}, 'at least 2'),
    ({'k': ()}, 'at least 2'),
    ({'k': (8, 16)}, 'must not ascend'),
    ({'k': 25}, 'at most 24'),
    ({'k': 5, 'taken_at': 4}, 'from 1 to 3'),
  ],
)
def test_top_k_out_of_range_is_refused_before_anything_compiles(kwargs, said):
  with pytest.raises(errors.ConfigError, match=said):
    tiny_t5.tiny_model(top_k.TopKPropagation(**kwargs))
