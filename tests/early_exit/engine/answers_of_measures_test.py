"""What the decoder hands to a measure, and what it lets a measure answer."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from testing import tiny_t5

from calm_jax import errors
from calm_jax.early_exit.engine import confidence
from calm_jax.early_exit.measures import top_k


@dataclasses.dataclass(frozen=True)
class Counting(confidence.ConfidenceMeasure):
  """Confident by 0.1 for each time that it was asked of a token.

  Attributes:
    wrong: what is wrong with its answers.
  """

  wrong: str = ''

  predicts = True

  def start_token(self, config, batch_size):
    return jnp.full((batch_size,), 3, jnp.int32)

  def __call__(self, view):
    asked = view.token_state + 1
    answer = confidence.Measurement(
      0.1 * asked, view.predict(view.logits()), token_state=asked
    )
    changed = {
      'shape': {'confidence': answer.confidence[:, None]},
      'prediction': {'prediction': None},
      'forgets': {'token_state': ()},
      'type': {'token_state': answer.confidence},
    }
    return answer.replace(**changed.get(self.wrong, {}))


def generate(measure, *thresholds):
  model, params = tiny_t5.tiny_model(measure)
  return jax.jit(
    lambda tokens, thresholds: tiny_t5.generate(
      model, params, tokens, thresholds, max_decode_length=4
    )
  )(tiny_t5.sources(1), np.float32([thresholds]))


def test_what_start_token_gave_reaches_the_first_exit_that_is_measured():
  # The full model alone: the last layer is the first that is asked.
  alone = generate(Counting(), 1.0)
  confidences = np.asarray(alone.confidences)[np.asarray(alone.tokens) > 0]
  np.testing.assert_allclose(confidences, 0.4, rtol=1e-6)
  # Four exits, of which the row that leaves at none counts all.
  among = generate(Counting(), 0.75, 0.45)
  used = np.asarray(among.num_layers_used)
  np.testing.assert_allclose(
    np.asarray(among.confidences)[used == 4], 0.7, rtol=1e-6
  )
  assert set(used[0][used[0] > 0]) == {4} and set(used[1][used[1] > 0]) == {2}


@pytest.mark.parametrize(
  ('wrong', 'said'),
  [
    ('shape', r'one confidence for each of 1 rows, got the shape \(1, 1\)'),
    ('prediction', 'must have a prediction'),
    ('forgets', r"start_token gives it, \['int32\[1\]'\], got \[\]"),
    ('type', r"start_token gives it, \['int32\[1\]'\], got \['float32\[1\]'\]"),
  ],
)
def test_a_wrong_answer_is_named(wrong, said):
  with pytest.raises(errors.ConfigError, match=f'^Counting .*{said}'):
    generate(Counting(wrong), 0.5)


def test_candidates_may_become_fewer_from_exit_to_exit():
  """They begin as nothing, so their shapes are not compared."""
  measure = top_k.TopKPropagation(k=(8, 4))
  assert generate(measure, 0.5, 1.0).tokens.shape == (2, 4)
