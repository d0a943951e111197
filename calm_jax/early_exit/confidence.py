"""Confidence measures: how sure a decoder layer is of the next token.

Each measure is a small object. After every layer it sees a `LayerView` of the
current token and answers with a confidence per row; a row leaves the decoder at
the first layer whose confidence reaches its threshold (CALM Eq. 4). A measure
that computes logits anyway returns a prediction too, so that an exiting token
costs no second product with the output embedding.

`top_k` and `classifier_confidence` hold the measures that remember something.
"""

import abc
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import gin
import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from calm_jax.early_exit import clock as clock_lib
from calm_jax.early_exit import prediction as prediction_lib
from calm_jax.t5 import network
from calm_jax.t5 import rows as rows_lib

Prediction = prediction_lib.Prediction


@dataclasses.dataclass(frozen=True)
class LayerView:
  """What a measure sees after a decoder layer; B rows, width D.

  Attributes:
    layer: number of the layer, 1..L.
    num_layers: L.
    exit_number: 0 at the first layer where a token may leave, 1 at the next.
    hidden: [B, D], the state above the layer, before the final norm.
    previous_hidden: [B, D], the state below it.
    clock: when the token is fed in.
    rows: which rows of the batch these are; the B of a larger batch that still
      need the layer, for instance.
    exit_states: [batch, target, D], the states in which earlier tokens left; a
      ring, as `clock` says.
    is_full_model: [B], rows whose threshold of 1 forbids them to leave early.
    params: the network's parameters, for measures that are trained.
    network: calls a method of `t5.network.Transformer` by name.
    predict: (logits, log_rest=None) -> prediction, greedy or drawn.
    prepared: what the measure's own `prepare` returned.
    token_state: what this measure answered at the layer before it, for this
      token; its `start_token` at the first exit.
    sequence_state: what it answered last, for this sequence; of the whole
      batch, whose `rows` it reads and changes.
  """

  layer: int
  num_layers: int
  exit_number: int
  hidden: Float[Array, 'batch embed']
  previous_hidden: Float[Array, 'batch embed']
  clock: clock_lib.Clock
  rows: rows_lib.Rows
  exit_states: Float[Array, 'batch target embed']
  is_full_model: Bool[Array, ' batch']
  params: Mapping[str, Any]
  network: Callable[..., jax.Array]
  predict: Callable[..., Prediction]
  prepared: Any = ()
  token_state: Any = ()
  sequence_state: Any = ()

  @property
  def is_last(self) -> bool:
    return self.layer == self.num_layers

  def logits(self) -> jax.Array:
    """[B, vocab]: the final norm and the whole output embedding."""
    return self.network(self.hidden, method='logits_from_hidden')


@struct.dataclass
class Measurement:
  """A measure's answer.

  Attributes:
    confidence: [batch] in [0, 1]; NaN never exits.
    prediction: the layer's prediction if the measure computed logits.
    token_state, sequence_state: handed to the measure at the next layer, and at
      the next measurement of the sequence; [rows, ...] and [batch, ...] arrays.
  """

  confidence: Float[Array, ' batch']
  prediction: Prediction | None = None
  token_state: Any = ()
  sequence_state: Any = ()


class ConfidenceMeasure(abc.ABC):
  """How confident a layer is.

  Attributes:
    first_layer: the first layer (1..L) after which the measure is defined.
    predicts: whether it computes logits, and so answers with a prediction too.
  """

  first_layer: ClassVar[int] = 1
  predicts: ClassVar[bool] = False

  @abc.abstractmethod
  def __call__(self, view: LayerView) -> Measurement:
    """Measures all rows after a layer."""

  def prepare(self, config: network.T5Config, params: Mapping[str, Any]) -> Any:
    """Arrays that the measure derives from the parameters, once per model.

    They are arguments of the compiled program, as the parameters are.
    """
    del config, params
    return ()

  def start_token(self, config: network.T5Config, batch_size: int) -> Any:
    """What the measure knows of a token before its first exit."""
    del config, batch_size
    return ()

  def start_sequence(
    self, config: network.T5Config, batch_size: int, max_decode_length: int
  ) -> Any:
    """What the measure knows of a sequence before its first token."""
    del config, batch_size, max_decode_length
    return ()

  # By default there is nothing to check.
  def check(  # noqa: B027
    self, config: network.T5Config, params: Mapping[str, Any] | None = None
  ) -> None:
    """Raises ConfigError or DataError where it cannot serve this network.

    Args:
      config: sizes of the network.
      params: its parameters, if they are known.
    """


@gin.configurable
@dataclasses.dataclass(frozen=True)
class SoftmaxTopTwoGap(ConfidenceMeasure):
  """Softmax response: the difference of the two largest probabilities.

  CALM Sec. 3.5. Costs one product with the output embedding per layer.
  """

  predicts: ClassVar[bool] = True

  def __call__(self, view: LayerView) -> Measurement:
    prediction = view.predict(view.logits())
    return Measurement(prediction.gap, prediction)


@gin.configurable
@dataclasses.dataclass(frozen=True)
class SoftmaxMaximum(ConfidenceMeasure):
  """The largest probability of the softmax. Costs what the gap costs."""

  predicts: ClassVar[bool] = True

  def __call__(self, view: LayerView) -> Measurement:
    logits = view.logits().astype(jnp.float32)
    highest = jnp.max(logits, axis=-1, keepdims=True)
    confidence = 1.0 / jnp.sum(jnp.exp(logits - highest), axis=-1)
    return Measurement(confidence, view.predict(logits))


@gin.configurable
@dataclasses.dataclass(frozen=True)
class SoftmaxEntropy(ConfidenceMeasure):
  """1 - entropy / log(vocabulary): 1 is certain, 0 is a uniform guess."""

  predicts: ClassVar[bool] = True

  def __call__(self, view: LayerView) -> Measurement:
    logits = view.logits().astype(jnp.float32)
    log_probs = jax.nn.log_softmax(logits)
    entropy = -jnp.sum(jnp.exp(log_probs) * log_probs, axis=-1)
    confidence = 1.0 - entropy / jnp.log(logits.shape[-1])
    return Measurement(jnp.clip(confidence, 0.0, 1.0), view.predict(logits))


@gin.configurable
@dataclasses.dataclass(frozen=True)
class HiddenStateSaturation(ConfidenceMeasure):
  """Cosine similarity of the states below and above a layer.

  CALM Sec. 3.5: cos(d^i, d^{i-1}), defined from layer 2 on, per row. Needs no
  logits until the token leaves.

  Attributes:
    rescale: (1 + cosine) / 2 instead of the cosine, so that thresholds in
      [0, 1] reach all of its range; without it a negative cosine reaches none.
  """

  rescale: bool = False

  first_layer: ClassVar[int] = 2

  def __call__(self, view: LayerView) -> Measurement:
    above = view.hidden.astype(jnp.float32)
    below = view.previous_hidden.astype(jnp.float32)
    product = jnp.sum(above * below, axis=-1)
    norms = jnp.linalg.norm(above, axis=-1) * jnp.linalg.norm(below, axis=-1)
    # A state of exact zeros has no direction: it counts as not saturated.
    cosine = product / jnp.maximum(norms, 1e-30)
    return Measurement((1.0 + cosine) / 2.0 if self.rescale else cosine)


@struct.dataclass
class _Streak:
  """The best token of the exit before, and for how many exits it has stood."""

  best: Int[Array, ' batch']
  count: Int[Array, ' batch']


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Patience(ConfidenceMeasure):
  """For how many exits on end the best token has stayed the same.

  Zhou et al. 2020 (PABEE) leave after n agreements. Here the confidence is the
  number of agreements in a row over L - 1, so that a threshold of n / (L - 1)
  is a patience of n, and a grid of thresholds tries them all. Rows of the full
  model are not watched on their way up; their confidence at layer L is 0.
  """

  predicts: ClassVar[bool] = True

  def start_token(self, config, batch_size):
    nothing = jnp.full((batch_size,), -1, jnp.int32)
    return _Streak(best=nothing, count=jnp.zeros_like(nothing))

  def __call__(self, view: LayerView) -> Measurement:
    prediction = view.predict(view.logits())
    last = view.token_state
    agrees = prediction.best == last.best
    unwatched = view.is_last & view.is_full_model
    count = jnp.where(agrees & ~unwatched, last.count + 1, 0)
    return Measurement(
      count.astype(jnp.float32) / max(view.num_layers - 1, 1),
      prediction,
      token_state=_Streak(best=prediction.best, count=count),
    )


@gin.configurable
@dataclasses.dataclass(frozen=True)
class StaticExit(ConfidenceMeasure):
  """Every token leaves at one layer: the baseline of adaptive compute.

  The confidence after layer i is i / L, so that a threshold of i / L leaves at
  layer i, and a grid of thresholds tries all layers.
  """

  def __call__(self, view: LayerView) -> Measurement:
    share = layer_share(view.layer, view.num_layers)
    return Measurement(jnp.full(view.hidden.shape[0], share, jnp.float32))


def layer_share(layer: int | jax.Array, num_layers: int) -> jax.Array:
  """layer / num_layers in float32: i / L for arrays and for Python numbers.

  Both the confidence of `StaticExit` and the thresholds that aim at one of its
  layers come from here: they are compared exactly.
  """
  return jnp.float32(layer) / jnp.float32(num_layers)
