"""One token through the decoder's layers, each row leaving when confident.

The layers are a chain of conditions: layer k + 1 runs if any row of the batch
is still undecided after layer k. Rows are independent: a row that has left
keeps its state while others go on, and its result is the same whatever else is
in the batch. In a larger batch the rows that go on are packed (`packing`), so
that a layer costs what they need.

Layers that a token skipped still need its keys and values when a later token
enters them. They are computed from the state in which the token left, through
each layer's own norm and kernels (CALM Sec. 3.3.1), and lazily (`lazy_cache`).

Worked example, three layers, one row. Token 0 leaves after layer 1, token 1
after layer 1, token 2 uses all three. Layer 1 writes its row at tokens 0, 1, 2.
Layer 2 runs first at token 2: it catches up with positions 0 and 1 from
`exit_states`, then writes position 2 from its own input, and so does layer 3.
`filled` goes (1, 0, 0), (2, 0, 0), (3, 3, 3).
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from calm_jax.early_exit import clock as clock_lib
from calm_jax.early_exit import confidence as confidence_lib
from calm_jax.early_exit import (
  decoder_state,
  lazy_cache,
  packing,
  run_if,
  sampling,
  schedule,
)
from calm_jax.early_exit import prediction as prediction_lib
from calm_jax.early_exit import propagation as propagation_lib
from calm_jax.t5 import joined as joined_lib
from calm_jax.t5 import masks, network
from calm_jax.t5 import rows as rows_lib

# Sixteen rows cost a layer little more than its weights do; deep layers, which
# few rows reach, are a tenth faster with a second size. Each size is compiled.
ROWS_PER_PACK = (16, 4)
# A pack reads the weights once more, so most of a batch is run as a whole. The
# share is a guess that was not measured.
_LARGEST_PACKED_SHARE = 0.75


@struct.dataclass
class _LayerState:
  """Carried from layer to layer within one token.

  `propagated` is what the layers that a row skips see of it. In a pack the
  arrays are those of its rows; the cache has all rows of the batch.
  """

  hidden: Float[Array, 'batch embed']
  propagated: Float[Array, 'batch embed']
  undecided: Bool[Array, ' batch']
  result: decoder_state.TokenResult
  cache: decoder_state.DecoderCache


@dataclasses.dataclass(frozen=True)
class _TokenCall:
  """What is the same for all layers of one token.

  `clock`, `thresholds` and `sample_keys` are those of `rows`; `constants` and
  `self_bias`, the bias of self-attention, have all rows.
  """

  rows: rows_lib.Rows
  clock: clock_lib.Clock
  self_bias: jax.Array
  thresholds: jax.Array
  constants: decoder_state.DecoderConstants
  sample_keys: jax.Array | None = None

  def of_rows(self, rows: rows_lib.Rows) -> '_TokenCall':
    """The same for some rows of the batch."""
    return dataclasses.replace(
      self,
      rows=rows,
      clock=self.clock.of_rows(rows),
      thresholds=rows.take(self.thresholds),
      sample_keys=rows.take(self.sample_keys),
    )


@struct.dataclass
class EarlyExitDecoder:
  """The decoder of a T5 network with exits, over one set of parameters.

  Attributes:
    params: the parameter tree of `network.Transformer`.
    config: its sizes.
    measure: says how confident a layer is.
    exit_layers: where tokens may leave.
    propagation: what skipped layers see of a token.
    sampler: draws tokens from the distribution of the layer where they leave;
      the best one if None.
    prepared: what the measure derived from the parameters.
    joined: kernels of the layers laid out for decoding (`t5.joined`), or none.
    trace: whether to record every layer's confidence and best token.
    rows_per_pack: how many rows of a batch a layer takes at a time once others
      have left, the sizes of `packing`; always the whole batch if there are
      none. The numbers are the same with any.
  """

  params: Mapping[str, Any]
  config: network.T5Config = struct.field(pytree_node=False)
  measure: confidence_lib.ConfidenceMeasure = struct.field(pytree_node=False)
  exit_layers: schedule.ExitLayers = struct.field(
    pytree_node=False, default=schedule.ExitLayers()
  )
  propagation: propagation_lib.Propagation = struct.field(
    pytree_node=False, default=propagation_lib.ExitState()
  )
  sampler: sampling.Sampler | None = struct.field(
    pytree_node=False, default=None
  )
  prepared: Any = ()
  joined: joined_lib.Joined = ()
  trace: bool = struct.field(pytree_node=False, default=False)
  rows_per_pack: tuple[int, ...] = struct.field(
    pytree_node=False, default=ROWS_PER_PACK
  )

  def constants(
    self,
    encoded: Float[Array, 'batch source embed'],
    encoder_input_tokens: Int[Array, 'batch source'],
    max_decode_length: int,
  ) -> decoder_state.DecoderConstants:
    """Projects the source once per sequence and lays out the biases."""
    projected = [
      self._layer(i, encoded, method='project_cross')
      for i in range(self.config.num_decoder_layers)
    ]
    dtype = self.config.dtype
    source_mask = (encoder_input_tokens > 0)[:, None, :]
    return decoder_state.DecoderConstants(
      cross_keys=tuple(key for key, _ in projected),
      cross_values=tuple(value for _, value in projected),
      cross_bias=masks.mask_to_bias(source_mask, dtype),
      position_bias=self._position_bias(max_decode_length),
    )

  def _position_bias(self, length):
    """[query's slot, heads, key's slot], by their distance in time."""
    bias = self._transformer(length, method='decoder_position_bias')
    by_distance = bias[:, -1, ::-1]  # [heads, distance]
    slots = np.arange(length)
    distances = (slots[:, None] - slots) % length
    return by_distance[:, distances].transpose(1, 0, 2)

  def empty_cache(
    self, batch_size: int, max_decode_length: int
  ) -> decoder_state.DecoderCache:
    """A cache with no position written."""
    config = self.config
    return decoder_state.DecoderCache(
      layers=tuple(
        lazy_cache.LazyCache.empty(
          batch_size,
          config.num_heads,
          config.head_dim,
          max_decode_length,
          config.dtype,
        )
        for _ in range(config.num_decoder_layers)
      ),
      exit_states=jnp.zeros(
        (batch_size, max_decode_length, config.emb_dim), config.dtype
      ),
      measure_state=self.measure.start_sequence(
        config, batch_size, max_decode_length
      ),
    )

  def restarted(
    self,
    cache: decoder_state.DecoderCache,
    rows: rows_lib.Rows,
    time: Int[Array, ''],
  ) -> decoder_state.DecoderCache:
    """The cache, some rows of which begin another sequence at `time`."""
    length = cache.exit_states.shape[1]
    fresh = self.measure.start_sequence(self.config, len(rows.ids), length)

    def restart(old, new):
      if isinstance(old, lazy_cache.LazyCache):
        return old.restarted(rows, time)
      return rows.put(old, new)

    return cache.replace(
      layers=tuple(layer.restarted(rows, time) for layer in cache.layers),
      measure_state=jax.tree.map(
        restart,
        cache.measure_state,
        fresh,
        is_leaf=lambda x: isinstance(x, lazy_cache.LazyCache),
      ),
    )

  def __call__(
    self,
    token: Int[Array, ' batch'],
    time: Int[Array, ''],
    undecided: Bool[Array, ' batch'],
    thresholds: Float[Array, ' batch'],
    constants: decoder_state.DecoderConstants,
    cache: decoder_state.DecoderCache,
    sample_keys: jax.Array | None = None,
    starts: Int[Array, ' batch'] | None = None,
  ) -> tuple[decoder_state.TokenResult, decoder_state.DecoderCache]:
    """Runs one token of each row up to the layer where the row is confident.

    Args:
      token: the previous token, fed in at `time`.
      time: of the batch; all earlier ones must have been fed in.
      undecided: False for rows that are done; they use no layer.
      thresholds: a row leaves at the first layer whose confidence is at least
        its threshold; with 1 or more it never leaves early, by rule. Above 1 it
        is measured all the same, by measures that remember a sequence. NaN
        confidences never reach a threshold.
      constants: from `constants`.
      cache: from the previous time, or `empty_cache`.
      sample_keys: [batch] random keys of this token, for the sampler.
      starts: the time at which each row began, less than the cache's length
        ago; 0 if None.

    Returns:
      The result of each row, and the cache with this token added.
    """
    call = self._call(time, starts, thresholds, constants, sample_keys)
    state = self._run(token, undecided, call, cache)
    result = state.result
    if not self.measure.predicts:
      prediction = self._predict(call)(self._logits(state.hidden))
      result = result.replace(
        token=prediction.token, log_prob=prediction.log_prob
      )
    return result, _with_exit_state(state, time)

  def full_model_logits(
    self,
    token: Int[Array, ' batch'],
    position: Int[Array, ''],
    constants: decoder_state.DecoderConstants,
    cache: decoder_state.DecoderCache,
  ) -> tuple[Float[Array, 'batch vocab'], decoder_state.DecoderCache]:
    """One token through all layers: the logits, for searches over sequences.

    Args:
      token, position, constants, cache: as for `__call__`.

    Returns:
      Logits of the next token, and the cache with this position added.
    """
    silent = self.replace(measure=confidence_lib.StaticExit(), trace=False)
    thresholds = jnp.ones(token.shape)
    call = self._call(position, None, thresholds, constants, None)
    undecided = jnp.ones(token.shape, bool)
    state = silent._run(token, undecided, call, cache)
    return self._logits(state.hidden), _with_exit_state(state, position)

  def _call(self, time, starts, thresholds, constants, sample_keys):
    """What all layers of this token share."""
    batch_size, length = thresholds.shape[0], constants.position_bias.shape[0]
    if starts is None:
      starts = jnp.zeros((batch_size,), jnp.int32)
    clock = clock_lib.Clock(time, starts)
    by_position = lax.dynamic_index_in_dim(
      constants.position_bias, time % length
    )
    mask = masks.mask_to_bias(clock.is_seen(length), self.config.dtype)
    return _TokenCall(
      rows=rows_lib.Rows.all(batch_size),
      clock=clock,
      self_bias=by_position + mask[:, None],
      thresholds=thresholds,
      constants=constants,
      sample_keys=sample_keys,
    )

  def _run(self, token, undecided, call, cache) -> _LayerState:
    """The layers that the token needs."""
    embedded = self._transformer(token, method='embed')
    state = _LayerState(
      hidden=embedded,
      propagated=embedded,
      undecided=undecided,
      result=decoder_state.TokenResult.empty(
        token.shape[0], self.config.num_decoder_layers if self.trace else 0
      ),
      cache=cache,
    )
    measured = self.measure.start_token(self.config, token.shape[0])
    return self._run_from(1, state, measured, call)

  def _predict(self, call) -> Callable[..., prediction_lib.Prediction]:
    """Prediction of logits, drawn by the sampler if there is one."""
    if self.sampler is None:
      return prediction_lib.predict

    def choose(logits, log_rest):
      return self.sampler(call.sample_keys, logits, log_rest)

    return functools.partial(prediction_lib.predict, choose=choose)

  def _run_from(self, layer, state, measured, call):
    """Runs `layer` and, while a row is undecided, the layers above it.

    `measured` is the measure's state of this token. No layer below needs it
    back, so its shape may change from layer to layer.
    """
    state, measured = self._run_undecided(layer, state, measured, call)
    if layer == self.config.num_decoder_layers:
      return state
    return run_if.run_if(
      jnp.any(state.undecided),
      lambda s: self._run_from(layer + 1, s, measured, call),
      state,
    )

  def _run_undecided(self, layer, state, measured, call):
    """Runs one layer on the whole batch, or on packs where few rows need it."""
    batch_size = state.undecided.shape[0]
    if batch_size == 1 or not self.rows_per_pack:
      return self._run_and_decide(layer, state, measured, call)
    whole = jnp.sum(state.undecided) > _LARGEST_PACKED_SHARE * batch_size
    in_packs = state.undecided & ~whole
    _, answered = run_if.zeros_like_result(
      lambda: self._run_and_decide(layer, state, measured, call)
    )
    state, answered = run_if.run_if(
      whole,
      lambda both: self._run_and_decide(layer, both[0], measured, call),
      (state, answered),
    )
    return self._run_packs(layer, state, in_packs, measured, answered, call)

  def _run_packs(self, layer, state, active, measured, answered, call):
    """`_run_and_decide` on the active rows; the others' `answered` stays."""

    def run_pack(by_row, cache, rows):
      pack, _ = by_row
      is_row = jnp.arange(rows.ids.shape[0]) < rows.count
      pack = pack.replace(undecided=pack.undecided & is_row, cache=cache)
      pack, answered = self._run_and_decide(
        layer, pack, rows.take(measured), call.of_rows(rows)
      )
      return (pack.replace(cache=None), answered), pack.cache

    (rows, answered), cache = packing.map_active_rows(
      run_pack,
      active,
      (state.replace(cache=None), answered),
      state.cache,
      rows_per_pack=self.rows_per_pack,
    )
    return rows.replace(cache=cache), answered

  def _run_and_decide(self, layer, state, measured, call):
    state, below = self._run_layer(layer, state, call)
    return self._decide(layer, state, below, measured, call)

  def _run_layer(self, layer, state, call):
    """The layer itself: catches up its cache, adds this token, attends."""
    i = layer - 1
    constants = call.constants
    entering = jnp.where(
      state.undecided[:, None], state.hidden, state.propagated
    )
    # The query of a row that has left is of no use, and of no harm.
    query, *own = self._layer(i, entering, method='project_token')
    layer_cache = state.cache.layers[i].with_position(
      lambda states: self._layer(i, states, method='project_self'),
      tuple(own),
      call.clock.time,
      state.cache.exit_states,
      call.rows,
    )
    hidden = self._layer(
      i,
      state.hidden,
      query,
      layer_cache.keys,
      layer_cache.values,
      call.self_bias,
      constants.cross_keys[i],
      constants.cross_values[i],
      constants.cross_bias,
      call.rows,
      method='step',
    )
    cache = state.cache.replace(
      layers=_replace_at(state.cache.layers, i, layer_cache)
    )
    below = state.hidden
    hidden = jnp.where(state.undecided[:, None], hidden, below)
    propagated = self.propagation(
      hidden, state.propagated, layer <= self._exits[0]
    )
    state = state.replace(hidden=hidden, propagated=propagated, cache=cache)
    return state, below

  def _decide(self, layer, state, below, measured, call):
    """Lets confident rows leave, and all of them after the last layer."""
    is_last = layer == self.config.num_decoder_layers
    is_exit = layer in self._exits and layer >= self.measure.first_layer
    if not (is_exit or is_last or self.trace):
      return state, measured
    may_leave = state.undecided & (is_last | (call.thresholds < 1.0))
    if not (is_exit or is_last):
      may_leave = jnp.zeros_like(may_leave)
    wanted = state.undecided if self.trace else may_leave
    if jax.tree.leaves(state.cache.measure_state):
      # What the measure keeps of a prompt may not depend on a row's company.
      wanted |= state.undecided & (call.thresholds > 1.0)
    if is_exit or is_last:
      view = self._view(layer, state, below, measured, call)
      answer = self._measure_if(jnp.any(wanted), view)
    else:
      answer = self._prediction_only(state, measured, call)
    leaves = may_leave & (is_last | (answer.confidence >= call.thresholds))
    undefined = wanted & jnp.isnan(answer.confidence)
    result = state.result.replace(
      confidence=jnp.where(leaves, answer.confidence, state.result.confidence),
      num_layers_used=jnp.where(leaves, layer, state.result.num_layers_used),
      num_undefined=state.result.num_undefined + undefined,
      token=jnp.where(leaves, answer.prediction.token, state.result.token),
      log_prob=jnp.where(
        leaves, answer.prediction.log_prob, state.result.log_prob
      ),
    )
    if self.trace:
      result = _record(result, layer, state.undecided, answer)
    state = state.replace(
      result=result,
      undecided=state.undecided & ~leaves,
      cache=state.cache.replace(measure_state=answer.sequence_state),
    )
    return state, answer.token_state

  def _view(self, layer, state, below, measured, call):
    return confidence_lib.LayerView(
      layer=layer,
      num_layers=self.config.num_decoder_layers,
      exit_number=self._exits.index(layer),
      # Rows that have left show what skipped layers see of them.
      hidden=jnp.where(
        state.undecided[:, None], state.hidden, state.propagated
      ),
      previous_hidden=below,
      clock=call.clock,
      rows=call.rows,
      exit_states=state.cache.exit_states,
      is_full_model=call.thresholds >= 1.0,
      params=self.params,
      network=self._transformer,
      prepared=self.prepared,
      predict=self._predict(call),
      token_state=measured,
      sequence_state=state.cache.measure_state,
    )

  def _measure_if(self, condition, view):
    """The measure's answer; zeros where nobody asks for it.

    A batch of rows with threshold 1 asks at the last layer only, so the full
    model pays nothing for the possibility of leaving.
    """

    nothing = prediction_lib.Prediction.zeros(view.hidden.shape[0])

    def measure(sequence_state):
      seen = dataclasses.replace(view, sequence_state=sequence_state)
      answer = self.measure(seen)
      if answer.prediction is None and self.trace:
        return answer.replace(prediction=view.predict(view.logits()))
      return answer.replace(prediction=answer.prediction or nothing)

    # What is known of the sequence is kept; what was known of the token is
    # needed by nobody: if no row may leave here, none may at a later exit.
    blank = run_if.zeros_like_result(measure, view.sequence_state)
    return run_if.run_if(
      condition,
      lambda answer: measure(answer.sequence_state),
      blank.replace(sequence_state=view.sequence_state),
    )

  def _prediction_only(self, state, measured, call):
    """For the trace, at a layer without an exit."""
    prediction = self._predict(call)(self._logits(state.hidden))
    return confidence_lib.Measurement(
      jnp.full_like(prediction.gap, decoder_state.NOT_RUN),
      prediction,
      token_state=measured,
      sequence_state=state.cache.measure_state,
    )

  @property
  def _exits(self) -> tuple[int, ...]:
    return self.exit_layers.layers(self.config.num_decoder_layers)

  def _logits(self, hidden: jax.Array) -> jax.Array:
    return self._transformer(hidden, method='logits_from_hidden')

  def _transformer(self, *args, method: str):
    return network.Transformer(self.config).apply(
      {'params': self.params}, *args, method=method
    )

  def _layer(self, i: int, *args, method: str):
    variables = {'params': self.params['decoder'][f'layers_{i}']}
    if self.joined:
      variables['joined'] = self.joined[i]
    return network.DecoderLayer(self.config).apply(
      variables, *args, method=method
    )


def _with_exit_state(state: _LayerState, time) -> decoder_state.DecoderCache:
  """The cache, with what skipped layers will see of this token."""
  exit_states = state.cache.exit_states
  slot = time % exit_states.shape[1]
  exit_states = lax.dynamic_update_slice(
    exit_states, state.propagated[:, None], (0, slot, 0)
  )
  return state.cache.replace(exit_states=exit_states)


def _record(result, layer, undecided, answer):
  at_layer = (slice(None), layer - 1)
  confidences = jnp.where(undecided, answer.confidence, decoder_state.NOT_RUN)
  tokens = jnp.where(undecided, answer.prediction.best, decoder_state.NOT_RUN)
  return result.replace(
    trace_confidences=result.trace_confidences.at[at_layer].set(confidences),
    trace_tokens=result.trace_tokens.at[at_layer].set(tokens),
  )


def _replace_at(items: tuple, index: int, item) -> tuple:
  return (*items[:index], item, *items[index + 1 :])
