"""Top-k token propagation: confidence over the K tokens that still compete.

The first exit scores the whole vocabulary and keeps its K most probable tokens;
later exits score only these: they gather K columns of the output embedding,
instead of a product with all of it.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import gin
import jax
import jax.numpy as jnp
from flax import struct
from jax import lax
from jaxtyping import Array, Float, Int

from calm_jax import errors
from calm_jax.early_exit.engine import confidence
from calm_jax.early_exit.engine import prediction as prediction_lib
from calm_jax.t5 import network


@struct.dataclass
class Candidates:
  """The tokens that a position still chooses from.

  Serves `screening` too.

  Attributes:
    ids: [batch, K] int32, ascending, so that the lowest id wins a tie; None for
      all tokens.
    log_rest: [batch], log-sum-exp of the logits of all other tokens, each at
      the last exit that scored it; None where there are none.
    num_exits: exits passed since the whole vocabulary was scored, with that.
  """

  ids: Int[Array, 'batch k'] | None
  log_rest: Float[Array, ' batch'] | None
  num_exits: int = struct.field(pytree_node=False)


@struct.dataclass
class OutputColumns:
  """Columns of the output embedding, each of them contiguous in memory.

  Gathering K columns from a kernel that is stored by rows touches a cache line
  for every number.

  Attributes:
    columns: [V, D]; None where the token embedding is the output embedding,
      which is stored so already.
  """

  columns: Float[Array, 'vocab embed'] | None

  @classmethod
  def of(
    cls, config: network.T5Config, params: Mapping[str, Any]
  ) -> 'OutputColumns':
    """Those of a network; a copy of its output embedding if it needs one."""
    if config.logits_via_embedding:
      return cls(None)
    return cls(all_columns(config, params))

  def logits(
    self, view: confidence.LayerView, ids: Int[Array, 'batch k']
  ) -> Float[Array, 'batch k']:
    """Exact logits of the tokens `ids` of each row."""
    if self.columns is None:
      columns = view.network(ids, method='output_columns')
    else:
      columns = self.columns[ids]
    return view.network(view.hidden, columns, method='logits_of_columns')


def all_columns(
  config: network.T5Config, params: Mapping[str, Any]
) -> Float[Array, 'vocab embed']:
  """The output embedding of a network, transposed."""
  return network.Transformer(config).apply(
    {'params': params}, jnp.arange(config.vocab_size), method='output_columns'
  )


@gin.configurable
@dataclasses.dataclass(frozen=True)
class TopKPropagation(confidence.ConfidenceMeasure):
  """The gap of the two largest probabilities among K propagated tokens.

  A token that leaves early is the best of the K; one that reaches the last
  layer is chosen from the whole vocabulary, so that threshold 1 stays the full
  model. K of the vocabulary's size is `SoftmaxTopTwoGap` itself.

  Attributes:
    k: how many tokens stay: one number, or one for each exit, not ascending,
      the last of which holds for all further exits. Exit j scores what exit
      j - 1 kept, and keeps its best k[j].
    taken_at: layer at which the first K are taken; at exits below it the whole
      vocabulary is scored. The first exit if None.
    renormalize: whether probabilities are relative to the K alone. That is what
      the original does, and it inflates the confidence. Otherwise the tokens
      outside K keep the weight that they had when they were last scored.
    last_layer_from_k: whether rows with a threshold below 1 choose from the K
      at the last layer too.

  Raises:
    ConfigError: k is no such number or sequence.
  """

  k: int | tuple[int, ...] = 64
  taken_at: int | None = None
  renormalize: bool = False
  last_layer_from_k: bool = False

  predicts: ClassVar[bool] = True

  def __post_init__(self):
    # One number is a schedule of one; gin may give a list.
    ks = (self.k,) if isinstance(self.k, int) else tuple(self.k)
    object.__setattr__(self, 'k', ks)
    if not ks or any(type(x) is not int or x < 2 for x in ks):
      raise errors.ConfigError(
        f'TopKPropagation.k must be at least 2 (two tokens make a gap), got'
        f' {ks}.'
      )
    if list(ks) != sorted(ks, reverse=True):
      raise errors.ConfigError(
        f'TopKPropagation.k must not ascend from exit to exit, got {ks}.'
      )

  def check(self, config, params=None):
    if self.k[0] > config.vocab_size:
      raise errors.ConfigError(
        f'TopKPropagation.k must be at most {config.vocab_size}, the size of'
        f' the vocabulary, got {self.k}.'
      )
    layers = config.num_decoder_layers
    if self.taken_at is not None and not 1 <= self.taken_at < layers:
      raise errors.ConfigError(
        f'TopKPropagation.taken_at must be a layer from 1 to {layers - 1}, got'
        f' {self.taken_at}.'
      )

  def prepare(self, config, params) -> OutputColumns:
    return OutputColumns.of(config, params)

  def start_token(self, config, batch_size):
    del config, batch_size
    return None  # No candidates yet.

  def __call__(self, view):
    if view.is_last:
      return self._at_last_layer(view)
    if view.token_state is not None:
      return self._among_candidates(view)
    return self._from_vocabulary(view)

  def _from_vocabulary(self, view):
    """Scores all tokens and, from `taken_at` on, keeps the best."""
    logits = view.logits().astype(jnp.float32)
    takes_all = self.k[0] == logits.shape[-1]
    if takes_all or view.layer < (self.taken_at or 1):
      prediction = view.predict(logits)
      return confidence.Measurement(prediction.gap, prediction, None)
    everything = Candidates(None, None, num_exits=0)
    logits, state = best(logits, everything, self.k[0])
    return self._answer(view, logits, state)

  def _among_candidates(self, view):
    """Scores what the exit before has kept, and keeps the best of it."""
    state = view.token_state
    logits = self._columns(view).logits(view, state.ids)
    k = self.k[min(state.num_exits, len(self.k) - 1)]
    if k < state.ids.shape[1]:
      logits, state = best(logits, state, k)
    else:
      state = state.replace(num_exits=state.num_exits + 1)
    return self._answer(view, logits, state)

  def _columns(self, view) -> OutputColumns:
    return view.prepared

  def _answer(self, view, logits, state):
    log_rest = None if self.renormalize else state.log_rest
    prediction = view.predict(logits, log_rest).mapped(state.ids)
    return confidence.Measurement(prediction.gap, prediction, state)

  def _at_last_layer(self, view):
    def from_vocabulary():
      return view.predict(view.logits())

    if not self.last_layer_from_k or view.token_state is None:
      prediction = from_vocabulary()
      return confidence.Measurement(
        prediction.gap, prediction, view.token_state
      )
    answer = self._among_candidates(view)
    full = lax.cond(
      jnp.any(view.is_full_model),
      from_vocabulary,
      lambda: answer.prediction,
    )
    prediction = jax.tree.map(
      lambda a, b: jnp.where(view.is_full_model, a, b), full, answer.prediction
    )
    return answer.replace(confidence=prediction.gap, prediction=prediction)


def best(
  logits: Float[Array, 'batch scored'],
  state: Candidates,
  k: int,
) -> tuple[Float[Array, 'batch k'], Candidates]:
  """The best k of the scored tokens, and what is known of all others.

  Args:
    logits: of the tokens in `state`; of all tokens if its `ids` are None.
    state: what was scored.
    k: how many to keep.

  Returns:
    Their logits, and the tokens that are left.
  """
  kept, log_rest = split(logits, k)
  if state.ids is None:
    ids = kept
  else:
    ids = jnp.take_along_axis(state.ids, kept, axis=-1)
    log_rest = jnp.logaddexp(log_rest, state.log_rest)
  return jnp.take_along_axis(logits, kept, axis=-1), Candidates(
    ids, log_rest, num_exits=state.num_exits + 1
  )


def split(
  logits: Float[Array, 'batch scored'], k: int
) -> tuple[Int[Array, 'batch k'], Float[Array, ' batch']]:
  """Indices of the k largest, ascending, and log-sum-exp of all others."""
  values, largest = prediction_lib.largest(logits, k)
  # Of the logits that equal the k-th, those with the lowest ids are kept.
  kth = values[:, -1:]
  last_id = jnp.max(
    jnp.where(values == kth, largest, -1), axis=1, keepdims=True
  )
  is_equal_but_later = (logits == kth) & (jnp.arange(logits.shape[1]) > last_id)
  rest = jnp.where((logits < kth) | is_equal_but_later, logits, -jnp.inf)
  # Ascending: among equal logits the lowest id comes first, as everywhere.
  return jnp.sort(largest, axis=-1), jax.nn.logsumexp(rest, axis=-1)
