"""One token through the decoder's layers, each row leaving when confident.

The layers are a chain of conditions: layer k + 1 runs if any row of the batch
is still undecided after layer k. Rows are independent: a row that has left
keeps its state while others go on, and its result is the same whatever else is
in the batch. In a larger batch the rows that go on are packed (`packing`), so
that a layer costs what they need.

Layers that a token skipped still need its keys and values when a later token
enters them. They are computed then (`lazy_cache`), from what the token left
behind (`skipped_layers`).

Worked example, three layers, one row. Token 0 leaves after layer 1, token 1
after layer 1, token 2 uses all three. Layer 1 writes its row at tokens 0, 1, 2.
Layer 2 runs first at token 2: it catches up with positions 0 and 1 from
`kept_states`, then writes position 2 from its own input, and so does layer 3.
`filled` goes (1, 0, 0), (2, 0, 0), (3, 3, 3).
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Int

from calm_jax.early_exit.engine import clock as clock_lib
from calm_jax.early_exit.engine import confidence as confidence_lib
from calm_jax.early_exit.engine import (
  decoder_parts,
  decoder_state,
  lazy_cache,
  token_run,
)
from calm_jax.t5 import masks
from calm_jax.t5 import rows as rows_lib


@struct.dataclass
class EarlyExitDecoder(decoder_parts.DecoderParts):
  """The decoder of a T5 network with exits: its parts, put to work."""

  def constants(
    self,
    encoded: Float[Array, 'batch source embed'],
    encoder_input_tokens: Int[Array, 'batch source'],
    max_decode_length: int,
  ) -> decoder_state.DecoderConstants:
    """Projects the source once per sequence and lays out the biases."""
    projected = [
      self.layer(i, encoded, method='project_cross')
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
    bias = self.transformer(length, method='decoder_position_bias')
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
      kept_states=jnp.zeros(
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
    length = cache.kept_states.shape[1]
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
    fed: decoder_state.TokenInput,
    thresholds: Float[Array, ' batch'],
    constants: decoder_state.DecoderConstants,
    cache: decoder_state.DecoderCache,
    sample_keys: jax.Array | None = None,
  ) -> tuple[decoder_state.TokenResult, decoder_state.DecoderCache]:
    """Runs one token of each row up to the layer where the row is confident.

    Args:
      fed: the token.
      thresholds: a row leaves at the first layer whose confidence is at least
        its threshold; with 1 it never leaves early, by rule. NaN confidences
        never reach a threshold.
      constants: from `constants`.
      cache: from the previous time, or `empty_cache`.
      sample_keys: [batch] random keys of this token, for the sampler.

    Returns:
      The result of each row, and the cache with this token added.
    """
    call = self._call(fed, thresholds, constants, sample_keys)
    state = token_run.TokenRun(self, call)(fed.token, fed.undecided, cache)
    result = state.result
    if not self.measure.predicts:
      prediction = self.predict_fn(call)(self.logits(state.hidden))
      result = result.replace(
        token=prediction.token, log_prob=prediction.log_prob
      )
    return result, state.cache_after(fed.clock.time)

  def full_model_logits(
    self,
    token: Int[Array, ' batch'],
    position: Int[Array, ''],
    constants: decoder_state.DecoderConstants,
    cache: decoder_state.DecoderCache,
  ) -> tuple[Float[Array, 'batch vocab'], decoder_state.DecoderCache]:
    """One token through all layers: the logits, for searches over sequences.

    Args:
      token: the previous token, fed in at `position` of every row.
      position: all earlier ones must have been fed in.
      constants, cache: as for `__call__`.

    Returns:
      Logits of the next token, and the cache with this position added.
    """
    silent = self.replace(measure=confidence_lib.Unmeasured(), trace=False)
    clock = clock_lib.Clock(position, jnp.zeros(token.shape, jnp.int32))
    undecided = jnp.ones(token.shape, bool)
    fed = decoder_state.TokenInput(token, clock, undecided)
    call = self._call(fed, jnp.ones(token.shape), constants)
    state = token_run.TokenRun(silent, call)(token, undecided, cache)
    return self.logits(state.hidden), state.cache_after(position)

  def _call(self, fed, thresholds, constants, sample_keys=None):
    """What all layers of this token share."""
    return decoder_state.TokenCall(
      rows=rows_lib.Rows.all(thresholds.shape[0]),
      clock=fed.clock,
      self_bias=constants.self_bias(fed.clock),
      thresholds=thresholds,
      constants=constants,
      is_prompt=fed.is_prompt,
      sample_keys=sample_keys,
    )
