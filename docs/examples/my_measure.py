"""Confidence measures outside calm_jax: one forgets, two remember.

my_measure.gin chooses between them; docs/extending.md explains them.
"""

import dataclasses

import jax
import jax.numpy as jnp

from calm_jax.early_exit.engine import confidence


@dataclasses.dataclass(frozen=True)
class LogProbMargin(confidence.ConfidenceMeasure):
  """How far the best token is ahead, in log-probability.

  A margin of m = log p1 - log p2 says that the best token is e^m times as
  probable as the next one, whatever the others are. 1 - e^-m maps it to [0, 1].
  """

  # It computes logits, so a token that leaves costs no second product.
  predicts = True

  def __call__(self, view):
    logits = view.logits().astype(jnp.float32)
    return confidence.Measurement(margin(logits), view.predict(logits))


@dataclasses.dataclass(frozen=True)
class AgreeingGap(confidence.ConfidenceMeasure):
  """The softmax response, less where the exit before preferred another token.

  Attributes:
    doubt: what it is multiplied by then.
  """

  doubt: float = 0.5

  predicts = True

  def start_token(self, config, batch_size):
    return jnp.full((batch_size,), -1, jnp.int32)  # There was no exit yet.

  def __call__(self, view):
    prediction = view.predict(view.logits())
    # Rows of the full model are not always asked below the last layer.
    before = jnp.where(view.is_full_model, -1, view.token_state)
    has_changed = (before >= 0) & (prediction.best != before)
    return confidence.Measurement(
      jnp.where(has_changed, self.doubt, 1.0) * prediction.gap,
      prediction,
      token_state=prediction.best,
    )


@dataclasses.dataclass(frozen=True)
class SteadyMargin(confidence.ConfidenceMeasure):
  """The margin, mixed with how sure the first exit was of the token before.

  After a hard token the next one is looked at longer.

  Attributes:
    weight: of the token before, in [0, 1].
  """

  weight: float = 0.25

  predicts = True

  def start_token(self, config, batch_size):
    return jnp.zeros((batch_size,), jnp.float32)

  def start_sequence(self, config, batch_size, max_decode_length):
    return jnp.zeros((batch_size,), jnp.float32)

  def __call__(self, view):
    logits = view.logits().astype(jnp.float32)
    now = margin(logits)
    before, of_sequence = view.token_state, view.sequence_state
    if view.exit_number == 0:  # No row of this token has left yet.
      # Rows of the full model are not always asked here: they remember nothing.
      before = jnp.where(view.is_full_model, 0.0, view.rows.take(of_sequence))
      of_sequence = view.rows.put(of_sequence, now)
    return confidence.Measurement(
      (1.0 - self.weight) * now + self.weight * before,
      view.predict(logits),
      token_state=before,
      sequence_state=of_sequence,
    )


def margin(logits: jax.Array) -> jax.Array:
  """[rows, vocab] -> [rows] in [0, 1]: 1 - p2 / p1."""
  best, second = jax.lax.top_k(logits, 2)[0].T
  return 1.0 - jnp.exp(second - best)
