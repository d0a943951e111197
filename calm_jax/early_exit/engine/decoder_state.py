"""What the decoder reads, leaves behind and answers for each token.

Constants of a sequence, caches, and the result of a token; `layer_loop` turns
the first two into the last. `token_run` carries the state of a layer.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from calm_jax.early_exit.engine import clock as clock_lib
from calm_jax.early_exit.engine import lazy_cache
from calm_jax.t5 import masks
from calm_jax.t5 import rows as rows_lib

# What a trace holds where a layer was not run, or has no confidence.
NOT_RUN = -1


@struct.dataclass
class DecoderConstants:
  """What every token of a sequence reads and none changes.

  Attributes:
    cross_keys: per layer [batch, heads, head_dim, source].
    cross_values: per layer [batch, heads, source, head_dim].
    cross_bias: [batch, 1, source], masks source padding.
    position_bias: [target, heads, target], position bias of each slot that a
      query may be written to.
  """

  cross_keys: tuple[Float[Array, 'batch heads kv source'], ...]
  cross_values: tuple[Float[Array, 'batch heads source kv'], ...]
  cross_bias: Float[Array, 'batch 1 source']
  position_bias: Float[Array, 'target heads target']

  def self_bias(
    self, clock: clock_lib.Clock
  ) -> Float[Array, 'queries heads target']:
    """Position bias and mask of self-attention, for queries of these times."""
    length = self.position_bias.shape[0]
    slot = clock.time % length
    if slot.ndim:
      by_slot = self.position_bias[slot]
    else:
      by_slot = lax.dynamic_index_in_dim(self.position_bias, slot)
    mask = masks.mask_to_bias(clock.is_seen(length), by_slot.dtype)
    return by_slot + mask[:, None]

  def put(
    self, rows: rows_lib.Rows, other: 'DecoderConstants'
  ) -> 'DecoderConstants':
    """These, with the sources of some rows replaced by those of `other`."""

    def of_sources(constants):
      return constants.cross_keys, constants.cross_values, constants.cross_bias

    replaced = rows.put(of_sources(self), of_sources(other))
    return DecoderConstants(*replaced, other.position_bias)


@struct.dataclass
class DecoderCache:
  """What tokens leave behind for later ones.

  Attributes:
    layers: self-attention keys and values, of each layer.
    kept_states: [batch, target, embed], what each token left behind for the
      layers that it skipped.
    measure_state: the measure's own.
  """

  layers: tuple[lazy_cache.LazyCache, ...]
  kept_states: Float[Array, 'batch target embed']
  measure_state: Any = ()


@struct.dataclass
class TokenInput:
  """The token that is fed in, of each row.

  Attributes:
    token: [batch] int32, the previous token.
    clock: when it is fed in; all earlier times must have been.
    undecided: [batch], False for rows that are done; they use no layer.
    is_prompt: [batch], rows whose next token a prompt decides: the full model
      reads it, and measures remember it as any other. None without prompts.
  """

  token: Int[Array, ' batch']
  clock: clock_lib.Clock
  undecided: Bool[Array, ' batch']
  is_prompt: Bool[Array, ' batch'] | None = None


@struct.dataclass
class TokenResult:
  """What is known of each row's current token.

  Attributes:
    token: [batch] int32, the predicted next token.
    log_prob: [batch], its log-probability at the layer where the row left.
    confidence: [batch], the measure at that layer.
    num_layers_used: [batch] int32, 1..L; 0 for rows that were done before.
    num_undefined: [batch] int32, confidences that were NaN and so kept the row
      from leaving.
    trace_confidences: [batch, layers], or [batch, 0] without a trace; NOT_RUN
      where the row had left before, and where there is no exit or the measure
      is not defined.
    trace_tokens: [batch, layers] int32, each layer's best token; NOT_RUN where
      the row had left before.
  """

  token: Int[Array, ' batch']
  log_prob: Float[Array, ' batch']
  confidence: Float[Array, ' batch']
  num_layers_used: Int[Array, ' batch']
  num_undefined: Int[Array, ' batch']
  trace_confidences: Float[Array, 'batch traced']
  trace_tokens: Int[Array, 'batch traced']

  @classmethod
  def empty(cls, batch_size: int, num_traced: int) -> 'TokenResult':
    """Nothing is known yet."""
    traced = (batch_size, num_traced)
    return cls(
      token=jnp.zeros((batch_size,), jnp.int32),
      log_prob=jnp.zeros((batch_size,), jnp.float32),
      confidence=jnp.zeros((batch_size,), jnp.float32),
      num_layers_used=jnp.zeros((batch_size,), jnp.int32),
      num_undefined=jnp.zeros((batch_size,), jnp.int32),
      trace_confidences=jnp.full(traced, NOT_RUN, jnp.float32),
      trace_tokens=jnp.full(traced, NOT_RUN, jnp.int32),
    )


@struct.dataclass
class LayerState:
  """Carried from layer to layer within one token.

  `kept` is what rows leave behind that have left, or would leave here. In a
  pack the arrays are those of its rows; the cache has all rows of the batch.
  """

  hidden: Float[Array, 'batch embed']
  kept: Float[Array, 'batch embed']
  undecided: Bool[Array, ' batch']
  result: TokenResult
  cache: DecoderCache

  def cache_after(self, time: Int[Array, '']) -> DecoderCache:
    """The cache, with what skipped layers will see of this token."""
    kept_states = self.cache.kept_states
    slot = time % kept_states.shape[1]
    kept_states = lax.dynamic_update_slice(
      kept_states, self.kept[:, None], (0, slot, 0)
    )
    return self.cache.replace(kept_states=kept_states)


@dataclasses.dataclass(frozen=True)
class TokenCall:
  """What is the same for all layers of one token.

  All but `constants` are those of `rows`; `self_bias` is the position bias and
  the mask of self-attention, [rows, heads, target].
  """

  rows: rows_lib.Rows
  clock: clock_lib.Clock
  self_bias: jax.Array
  thresholds: jax.Array
  constants: DecoderConstants
  is_prompt: jax.Array | None = None
  sample_keys: jax.Array | None = None

  def of_rows(self, rows: rows_lib.Rows) -> 'TokenCall':
    """The same for some rows of the batch."""
    return dataclasses.replace(
      self,
      rows=rows,
      clock=self.clock.of_rows(rows),
      self_bias=rows.take(self.self_bias),
      thresholds=rows.take(self.thresholds),
      is_prompt=rows.take(self.is_prompt),
      sample_keys=rows.take(self.sample_keys),
    )
