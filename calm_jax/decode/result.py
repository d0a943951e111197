"""DecodeResult: what a decoding gives, and how a token is added to it."""

import jax.numpy as jnp
from flax import struct
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from calm_jax.early_exit.engine import decoder_state


@struct.dataclass
class DecodeResult:
  """Generated sequences; what follows a row's EOS is zero everywhere.

  Attributes:
    tokens: [batch, target] int32, EOS included, 0 after it.
    num_layers_used: [batch, target] int32, 1..L, 0 where there is no token.
    confidences: [batch, target], the measure where the token left.
    log_probs: [batch], natural log-probability of each row's tokens, each under
      the layer that produced it.
    num_undefined: [batch] int32, confidences of a row that were NaN; these kept
      a token from leaving, and say that the measure is damaged.
    trace_confidences: [batch, target, layers], or [batch, target, 0] without a
      trace; `decoder_state.NOT_RUN` for layers that a token did not use.
    trace_tokens: [batch, target, layers] int32, likewise.
  """

  tokens: Int[Array, 'batch target']
  num_layers_used: Int[Array, 'batch target']
  confidences: Float[Array, 'batch target']
  log_probs: Float[Array, ' batch']
  num_undefined: Int[Array, ' batch']
  trace_confidences: Float[Array, 'batch target traced']
  trace_tokens: Int[Array, 'batch target traced']

  @classmethod
  def empty(
    cls, batch_size: int, length: int, num_traced: int
  ) -> 'DecodeResult':
    """Rows of which nothing has been generated."""
    shape = (batch_size, length)
    return cls(
      tokens=jnp.zeros(shape, jnp.int32),
      num_layers_used=jnp.zeros(shape, jnp.int32),
      confidences=jnp.zeros(shape, jnp.float32),
      log_probs=jnp.zeros((batch_size,), jnp.float32),
      num_undefined=jnp.zeros((batch_size,), jnp.int32),
      trace_confidences=jnp.zeros((*shape, num_traced), jnp.float32),
      trace_tokens=jnp.zeros((*shape, num_traced), jnp.int32),
    )

  def with_tokens(
    self,
    time: Int[Array, ''],
    new: decoder_state.TokenResult,
    finished: Bool[Array, ' batch'],
  ) -> 'DecodeResult':
    """With one token more of each row; finished rows keep what they have.

    Args:
      time: its column, modulo the longest output.
      new: of the token.
      finished: rows that have none.
    """
    slot = time % self.tokens.shape[1]

    def column(array, values):
      kept = finished.reshape((-1,) + (1,) * values.ndim)
      old = lax.dynamic_slice_in_dim(array, slot, 1, axis=1)
      values = jnp.where(kept, old, values[:, None].astype(array.dtype))
      return lax.dynamic_update_slice_in_dim(array, values, slot, axis=1)

    return DecodeResult(
      tokens=column(self.tokens, new.token),
      num_layers_used=column(self.num_layers_used, new.num_layers_used),
      confidences=column(self.confidences, new.confidence),
      log_probs=self.log_probs + jnp.where(finished, 0.0, new.log_prob),
      num_undefined=self.num_undefined
      + jnp.where(finished, 0, new.num_undefined),
      trace_confidences=column(self.trace_confidences, new.trace_confidences),
      trace_tokens=column(self.trace_tokens, new.trace_tokens),
    )
