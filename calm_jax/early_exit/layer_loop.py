"""One token through the decoder's layers, each row leaving when confident.

The layers are a chain of conditionals: layer k + 1 runs if any row of the batch
is still undecided after layer k. Rows are independent: a row that has left
keeps its state while others go on, and its result is the same whatever else is
in the batch.

Layers that a token skipped still need its keys and values when a later token
enters them. They are computed from the state in which the token left, through
each layer's own norm and kernels (CALM Sec. 3.3.1), and lazily: a layer that is
entered first catches up with the positions since it last ran, in chunks. The
numbers are those of eager propagation; layers that nobody enters read nothing.

Worked example, three layers, one row. Token 0 leaves after layer 1, token 1
after layer 1, token 2 uses all three. Layer 1 writes its row at tokens 0, 1, 2.
Layer 2 runs first at token 2: it catches up with positions 0 and 1 from
`exit_states`, then writes position 2 from its own input, and so does layer 3.
`filled` goes (1, 0, 0), (2, 0, 0), (3, 3, 3).
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from calm_jax.early_exit import confidence as confidence_lib
from calm_jax.t5 import masks, network

# Positions that a layer catches up with at a time.
_CHUNK = 8

# What a trace holds where a layer was not run, or has no confidence.
NOT_RUN = -1


@struct.dataclass
class DecoderConstants:
  """What every token of a sequence reads and none changes.

  Attributes:
    cross_keys: per layer [batch, heads, head_dim, source].
    cross_values: per layer [batch, heads, source, head_dim].
    cross_bias: [batch, 1, source], masks source padding.
    position_bias: [target, heads, target], position bias and causal mask of
      each query position.
  """

  cross_keys: tuple[Float[Array, 'batch heads kv source'], ...]
  cross_values: tuple[Float[Array, 'batch heads source kv'], ...]
  cross_bias: Float[Array, 'batch 1 source']
  position_bias: Float[Array, 'target heads target']


@struct.dataclass
class DecoderCache:
  """What tokens leave behind for later ones.

  Attributes:
    keys: per layer [batch, heads, head_dim, target].
    values: per layer [batch, heads, target, head_dim].
    filled: per layer, the number of leading positions written so far.
    exit_states: [batch, target, embed], the state in which each token left.
  """

  keys: tuple[Float[Array, 'batch heads kv target'], ...]
  values: tuple[Float[Array, 'batch heads target kv'], ...]
  filled: tuple[Int[Array, ''], ...]
  exit_states: Float[Array, 'batch target embed']


@struct.dataclass
class TokenResult:
  """What is known of each row's current token.

  Attributes:
    token: [batch] int32, the predicted next token.
    log_prob: [batch], its log-probability at the layer where the row left.
    confidence: [batch], the measure at that layer.
    num_layers_used: [batch] int32, 1..L; 0 for rows that were done before.
    trace_confidences: [batch, layers], or [batch, 0] without a trace; NOT_RUN
      where the row had left before, and below the measure's first layer.
    trace_tokens: [batch, layers] int32, each layer's best token; NOT_RUN where
      the row had left before.
  """

  token: Int[Array, ' batch']
  log_prob: Float[Array, ' batch']
  confidence: Float[Array, ' batch']
  num_layers_used: Int[Array, ' batch']
  trace_confidences: Float[Array, 'batch traced']
  trace_tokens: Int[Array, 'batch traced']


@struct.dataclass
class _LayerState:
  """Carried from layer to layer within one token."""

  hidden: Float[Array, 'batch embed']
  undecided: Bool[Array, ' batch']
  result: TokenResult
  cache: DecoderCache


@struct.dataclass
class EarlyExitDecoder:
  """The decoder of a T5 network with exits, over one set of parameters.

  Attributes:
    params: the parameter tree of `network.Transformer`.
    config: its sizes.
    measure: says how confident a layer is.
    trace: whether to record every layer's confidence and best token.
  """

  params: Mapping[str, Any]
  config: network.T5Config = struct.field(pytree_node=False)
  measure: confidence_lib.ConfidenceMeasure = struct.field(pytree_node=False)
  trace: bool = struct.field(pytree_node=False, default=False)

  def constants(
    self,
    encoded: Float[Array, 'batch source embed'],
    encoder_input_tokens: Int[Array, 'batch source'],
    max_decode_length: int,
  ) -> DecoderConstants:
    """Projects the source once per sequence and lays out the biases."""
    projected = [
      self._layer(i, encoded, method='project_cross')
      for i in range(self.config.num_decoder_layers)
    ]
    position_bias = self._transformer(
      max_decode_length, method='decoder_position_bias'
    ).transpose(1, 0, 2)
    causal = jnp.tril(jnp.ones((max_decode_length,) * 2, dtype=bool))
    dtype = self.config.dtype
    source_mask = (encoder_input_tokens > 0)[:, None, :]
    return DecoderConstants(
      cross_keys=tuple(key for key, _ in projected),
      cross_values=tuple(value for _, value in projected),
      cross_bias=masks.mask_to_bias(source_mask, dtype),
      position_bias=position_bias
      + masks.mask_to_bias(causal, dtype)[:, None, :],
    )

  def empty_cache(
    self, batch_size: int, max_decode_length: int
  ) -> DecoderCache:
    """A cache with no position written."""
    config = self.config
    heads = (batch_size, config.num_heads)
    num_layers = config.num_decoder_layers

    def zeros(*shape):
      return jnp.zeros(shape, config.dtype)

    return DecoderCache(
      keys=tuple(
        zeros(*heads, config.head_dim, max_decode_length)
        for _ in range(num_layers)
      ),
      values=tuple(
        zeros(*heads, max_decode_length, config.head_dim)
        for _ in range(num_layers)
      ),
      filled=tuple(jnp.zeros((), jnp.int32) for _ in range(num_layers)),
      exit_states=zeros(batch_size, max_decode_length, config.emb_dim),
    )

  def __call__(
    self,
    token: Int[Array, ' batch'],
    position: Int[Array, ''],
    undecided: Bool[Array, ' batch'],
    thresholds: Float[Array, ' batch'],
    constants: DecoderConstants,
    cache: DecoderCache,
  ) -> tuple[TokenResult, DecoderCache]:
    """Runs one token of each row up to the layer where the row is confident.

    Args:
      token: the previous token, fed in at `position`.
      position: 0-based position; all earlier ones must have been fed in.
      undecided: False for rows that are done; they use no layer.
      thresholds: a row leaves at the first layer whose confidence is at least
        its threshold; with 1 or more it never leaves early, by rule. NaN
        confidences never reach a threshold.
      constants: from `constants`.
      cache: from the previous position, or `empty_cache`.

    Returns:
      The result of each row, and the cache with this position added.
    """
    state = _LayerState(
      hidden=self._transformer(token, method='embed'),
      undecided=undecided,
      result=self._no_result(token.shape[0]),
      cache=cache,
    )
    state = self._run_from(1, state, position, thresholds, constants)
    result = state.result
    if not self.measure.predicts:
      prediction = confidence_lib.predict(self._logits(state.hidden))
      result = result.replace(
        token=prediction.token, log_prob=prediction.log_prob
      )
    exit_states = lax.dynamic_update_slice(
      state.cache.exit_states, state.hidden[:, None], (0, position, 0)
    )
    return result, state.cache.replace(exit_states=exit_states)

  def _run_from(self, layer, state, position, thresholds, constants):
    """Runs `layer` and, while a row is undecided, the layers above it."""
    state, below = self._run_layer(layer, state, position, constants)
    state = self._decide(layer, state, below, thresholds)
    if layer == self.config.num_decoder_layers:
      return state
    return lax.cond(
      jnp.any(state.undecided),
      lambda s: self._run_from(layer + 1, s, position, thresholds, constants),
      lambda s: s,
      state,
    )

  def _run_layer(self, layer, state, position, constants):
    """The layer itself: catches up its cache, adds this token, attends."""
    i = layer - 1
    cache = self._catch_up(i, state.cache, position)
    # Rows that have left hold their exit state: what skipped layers must see.
    key, value = self._layer(i, state.hidden[:, None], method='project_self')
    keys = write_rows(cache.keys[i], key, position, axis=3)
    values = write_rows(cache.values[i], value, position, axis=2)
    hidden = self._layer(
      i,
      state.hidden,
      keys,
      values,
      lax.dynamic_index_in_dim(constants.position_bias, position),
      constants.cross_keys[i],
      constants.cross_values[i],
      constants.cross_bias,
      method='step',
    )
    cache = cache.replace(
      keys=_replace_at(cache.keys, i, keys),
      values=_replace_at(cache.values, i, values),
      filled=_replace_at(cache.filled, i, position + 1),
    )
    below = state.hidden
    hidden = jnp.where(state.undecided[:, None], hidden, below)
    return state.replace(hidden=hidden, cache=cache), below

  def _catch_up(self, i, cache, position):
    """Fills a layer's cache up to `position` from the exit states."""
    length = cache.exit_states.shape[1]
    chunk = min(_CHUNK, length)

    def fill_chunk(carry):
      keys, values, filled = carry
      start = jnp.minimum(filled, length - chunk)
      states = lax.dynamic_slice_in_dim(cache.exit_states, start, chunk, axis=1)
      key, value = self._layer(i, states, method='project_self')
      positions = start + jnp.arange(chunk)
      pending = (positions >= filled) & (positions < position)
      keys = write_rows(keys, key, start, axis=3, where=pending)
      values = write_rows(values, value, start, axis=2, where=pending)
      return keys, values, jnp.minimum(start + chunk, position)

    keys, values, filled = lax.while_loop(
      lambda carry: carry[2] < position,
      fill_chunk,
      (cache.keys[i], cache.values[i], cache.filled[i]),
    )
    return cache.replace(
      keys=_replace_at(cache.keys, i, keys),
      values=_replace_at(cache.values, i, values),
      filled=_replace_at(cache.filled, i, filled),
    )

  def _decide(self, layer, state, below, thresholds):
    """Lets confident rows leave, and all of them after the last layer."""
    is_last = layer == self.config.num_decoder_layers
    is_defined = is_last or layer >= self.measure.first_layer
    may_leave = state.undecided & (is_last | (thresholds < 1.0)) & is_defined
    measured = state.undecided if self.trace else may_leave
    confidence, prediction = self._measure_if(
      jnp.any(measured), layer, state.hidden, below
    )
    leaves = may_leave & (is_last | (confidence >= thresholds))
    result = state.result.replace(
      confidence=jnp.where(leaves, confidence, state.result.confidence),
      num_layers_used=jnp.where(leaves, layer, state.result.num_layers_used),
      token=jnp.where(leaves, prediction.token, state.result.token),
      log_prob=jnp.where(leaves, prediction.log_prob, state.result.log_prob),
    )
    if self.trace:
      value = confidence if is_defined else jnp.full_like(confidence, NOT_RUN)
      result = _record(result, layer, state.undecided, value, prediction)
    return state.replace(result=result, undecided=state.undecided & ~leaves)

  def _measure_if(self, condition, layer, hidden, below):
    """Confidence and prediction; zeros where nobody asks for them.

    A batch of rows with threshold 1 asks at the last layer only, so the full
    model pays nothing for the possibility of leaving.
    """
    batch_size = hidden.shape[0]
    nothing = (
      jnp.zeros((batch_size,), jnp.float32),
      confidence_lib.Prediction.zeros(batch_size),
    )
    is_last = layer == self.config.num_decoder_layers
    if layer < self.measure.first_layer and not (self.trace or is_last):
      return nothing

    def measure():
      confidence, prediction = self.measure(hidden, below, self._logits)
      if prediction is None and self.trace:
        prediction = confidence_lib.predict(self._logits(hidden))
      return confidence, prediction or nothing[1]

    return lax.cond(condition, measure, lambda: nothing)

  def _no_result(self, batch_size: int) -> TokenResult:
    traced = self.config.num_decoder_layers if self.trace else 0
    return TokenResult(
      token=jnp.zeros((batch_size,), jnp.int32),
      log_prob=jnp.zeros((batch_size,), jnp.float32),
      confidence=jnp.zeros((batch_size,), jnp.float32),
      num_layers_used=jnp.zeros((batch_size,), jnp.int32),
      trace_confidences=jnp.full((batch_size, traced), NOT_RUN, jnp.float32),
      trace_tokens=jnp.full((batch_size, traced), NOT_RUN, jnp.int32),
    )

  def _logits(self, hidden: jax.Array) -> jax.Array:
    return self._transformer(hidden, method='logits_from_hidden')

  def _transformer(self, *args, method: str):
    return network.Transformer(self.config).apply(
      {'params': self.params}, *args, method=method
    )

  def _layer(self, i: int, *args, method: str):
    return network.DecoderLayer(self.config).apply(
      {'params': self.params['decoder'][f'layers_{i}']}, *args, method=method
    )


def write_rows(cache, rows, start, *, axis, where=None):
  """Writes rows into a cache from position `start` of `axis` on.

  Args:
    cache: [..., target, ...] with the positions on `axis`.
    rows: the same shape with fewer positions.
    start: the first position, start + positions must not pass the end.
    axis: the axis of the positions.
    where: [positions] bool; other rows keep what the cache holds.

  Returns:
    The cache with the rows written.
  """
  if where is not None:
    old = lax.dynamic_slice_in_dim(cache, start, rows.shape[axis], axis)
    shape = [1] * cache.ndim
    shape[axis] = -1
    rows = jnp.where(where.reshape(shape), rows, old)
  return lax.dynamic_update_slice_in_dim(cache, rows, start, axis)


def _record(result, layer, undecided, confidence, prediction):
  at_layer = (slice(None), layer - 1)
  confidences = jnp.where(undecided, confidence, NOT_RUN)
  tokens = jnp.where(undecided, prediction.token, NOT_RUN)
  return result.replace(
    trace_confidences=result.trace_confidences.at[at_layer].set(confidences),
    trace_tokens=result.trace_tokens.at[at_layer].set(tokens),
  )


def _replace_at(items: tuple, index: int, item) -> tuple:
  return (*items[:index], item, *items[index + 1 :])
