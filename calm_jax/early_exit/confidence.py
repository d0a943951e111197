"""Confidence measures: how sure a decoder layer is of the next token.

Each measure is a small object. After every layer it sees the hidden state of
the current token and answers with a confidence per row; a row leaves the
decoder at the first layer whose confidence reaches its threshold (CALM Eq. 4).
A measure that computes logits anyway returns them, so that an exiting token
costs no second product with the output embedding.
"""

import dataclasses
from collections.abc import Callable
from typing import ClassVar, Protocol

import gin
import jax
import jax.numpy as jnp
from flax import struct
from jax import lax
from jaxtyping import Array, Float, Int

LogitsFn = Callable[[jax.Array], jax.Array]


@struct.dataclass
class Prediction:
  """The most probable token of each row and how probable it is.

  Attributes:
    token: [batch] int32, the best token; the lowest id among equals.
    log_prob: [batch] float32, its natural-log probability.
    gap: [batch] float32, its probability minus that of the second best.
  """

  token: Int[Array, ' batch']
  log_prob: Float[Array, ' batch']
  gap: Float[Array, ' batch']

  @classmethod
  def zeros(cls, batch_size: int) -> 'Prediction':
    """Stands for "not computed"."""
    zeros = jnp.zeros((batch_size,), jnp.float32)
    return cls(token=zeros.astype(jnp.int32), log_prob=zeros, gap=zeros)


def predict(logits: Float[Array, 'batch vocab']) -> Prediction:
  """Best token, its log-probability and the top-two gap, without a full sort.

  The barrier keeps XLA's CPU backend from turning `top_k`, whose columns are
  used one by one, into a sort of the whole vocabulary (70 times slower).
  """
  logits = logits.astype(jnp.float32)
  values, ids = lax.optimization_barrier(lax.top_k(logits, 2))
  # The normalizer of probabilities; subtracting the maximum keeps it finite.
  normalizer = jnp.sum(jnp.exp(logits - values[:, :1]), axis=-1)
  ratio = jnp.exp(values[:, 1] - values[:, 0])
  return Prediction(
    token=ids[:, 0],
    log_prob=-jnp.log(normalizer),
    gap=(1.0 - ratio) / normalizer,
  )


class ConfidenceMeasure(Protocol):
  """What the layer loop asks of a measure.

  Attributes:
    first_layer: the first layer (1..L) after which the measure is defined.
    predicts: whether it computes logits, and so answers with a prediction too.
  """

  first_layer: ClassVar[int]
  predicts: ClassVar[bool]

  def __call__(
    self,
    hidden: Float[Array, 'batch embed'],
    previous_hidden: Float[Array, 'batch embed'],
    logits_fn: LogitsFn,
  ) -> tuple[Float[Array, ' batch'], Prediction | None]:
    """Confidence after a layer, and its prediction if that came for free."""
    ...


@gin.configurable
@dataclasses.dataclass(frozen=True)
class SoftmaxTopTwoGap:
  """Softmax response: the difference of the two largest probabilities.

  CALM Sec. 3.5. Costs one product with the output embedding per layer.
  """

  first_layer: ClassVar[int] = 1
  predicts: ClassVar[bool] = True

  def __call__(self, hidden, previous_hidden, logits_fn):
    """[batch, embed] -> confidence [batch] in [0, 1], prediction."""
    del previous_hidden
    prediction = predict(logits_fn(hidden))
    return prediction.gap, prediction


@gin.configurable
@dataclasses.dataclass(frozen=True)
class HiddenStateSaturation:
  """Cosine similarity of the states below and above a layer.

  CALM Sec. 3.5: cos(d^i, d^{i-1}), defined from layer 2 on, per row. Needs no
  logits until the token leaves.
  """

  first_layer: ClassVar[int] = 2
  predicts: ClassVar[bool] = False

  def __call__(self, hidden, previous_hidden, logits_fn):
    """[batch, embed] twice -> confidence [batch] in [-1, 1], None."""
    del logits_fn
    hidden = hidden.astype(jnp.float32)
    previous_hidden = previous_hidden.astype(jnp.float32)
    product = jnp.sum(hidden * previous_hidden, axis=-1)
    norms = jnp.linalg.norm(hidden, axis=-1) * jnp.linalg.norm(
      previous_hidden, axis=-1
    )
    # A state of exact zeros has no direction: it counts as not saturated.
    return product / jnp.maximum(norms, 1e-30), None
