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

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float

from calm_jax.early_exit.engine import clock as clock_lib
from calm_jax.early_exit.engine import owed
from calm_jax.early_exit.engine import prediction as prediction_lib
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
    kept_states: [batch, target, D], what earlier tokens left behind for layers
      that they skipped: the states in which they left; a ring, as `clock` says.
      None where positions have a state of their own above each layer that they
      skipped: `see` has been shown them.
    is_full_model: [B], rows that may not leave early: their threshold is 1, or
      a prompt decides their token.
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
  hidden: Float[Array, 'rows embed']
  previous_hidden: Float[Array, 'rows embed']
  clock: clock_lib.Clock
  rows: rows_lib.Rows
  kept_states: Float[Array, 'batch target embed'] | None
  is_full_model: Bool[Array, ' rows']
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


@dataclasses.dataclass(frozen=True)
class Passed:
  """Positions that have passed a layer: of the token, and earlier ones.

  Attributes:
    layer, num_layers: 1..L, and L.
    states: [pairs, D], above the layer.
    pairs: which positions.
    params: the network's parameters.
    sequence_state: what the measure knows of the sequences, of the whole batch.
  """

  layer: int
  num_layers: int
  states: Float[Array, 'pairs embed']
  pairs: owed.Pairs
  params: Mapping[str, Any]
  sequence_state: Any


@struct.dataclass
class Measurement:
  """A measure's answer.

  Attributes:
    confidence: [batch] in [0, 1]; NaN never exits.
    prediction: the layer's prediction if the measure computed logits.
    token_state, sequence_state: handed to the measure at the next layer, and at
      the next measurement of the sequence; [rows, ...] and [batch, ...] arrays.
  """

  # Of any shape until `exit_decision` has looked: a measure may be the user's.
  confidence: jax.Array
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

  def see(self, passed: Passed) -> Any:
    """What the measure knows of the sequences after states were computed.

    Called where positions have a state of their own above each layer that they
    skipped (`SkippedLayers.shows_states`): each is shown once, when it is
    computed.
    """
    return passed.sequence_state

  # By default there is nothing to check.
  def check(  # noqa: B027
    self, config: network.T5Config, params: Mapping[str, Any] | None = None
  ) -> None:
    """Raises ConfigError or DataError where it cannot serve this network.

    Args:
      config: sizes of the network.
      params: its parameters, if they are known.
    """


@dataclasses.dataclass(frozen=True)
class Unmeasured(ConfidenceMeasure):
  """No measure: for decoding where no token may leave early."""

  def __call__(self, view: LayerView) -> Measurement:
    return Measurement(jnp.zeros(view.hidden.shape[0], jnp.float32))
