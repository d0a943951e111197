"""The token loop: greedy generation in one `lax.while_loop`.

It receives `tokens_to_step`, a function from the previous tokens to the next
ones, and knows no network, no layers and no exits; what a step reports beside
its token is only collected.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from calm_jax.early_exit.layer_loop import TokenResult

# (previous token [batch], position, undecided [batch], cache) -> result, cache
TokensToStep = Callable[
  [jax.Array, jax.Array, jax.Array, Any], tuple[TokenResult, Any]
]


@struct.dataclass
class DecodeResult:
  """Generated sequences; what follows a row's EOS is zero everywhere.

  Attributes:
    tokens: [batch, target] int32, EOS included, 0 after it.
    num_layers_used: [batch, target] int32, 1..L, 0 where there is no token.
    confidences: [batch, target], the measure where the token left.
    log_probs: [batch], natural log-probability of each row's tokens, each under
      the layer that produced it.
    trace_confidences: [batch, target, layers], or [batch, target, 0] without a
      trace; `layer_loop.NOT_RUN` for layers that a token did not use.
    trace_tokens: [batch, target, layers] int32, likewise.
  """

  tokens: Int[Array, 'batch target']
  num_layers_used: Int[Array, 'batch target']
  confidences: Float[Array, 'batch target']
  log_probs: Float[Array, ' batch']
  trace_confidences: Float[Array, 'batch target traced']
  trace_tokens: Int[Array, 'batch target traced']


@struct.dataclass
class DecodingState:
  """Carried from token to token.

  Attributes:
    position: position of the token to be produced.
    previous: [batch], the token before it; 0, the start symbol, at first.
    finished: [batch], rows that have produced EOS.
    result: what has been generated so far.
    cache: the network's own.
  """

  position: Int[Array, '']
  previous: Int[Array, ' batch']
  finished: Bool[Array, ' batch']
  result: DecodeResult
  cache: Any


def greedy_decode(
  tokens_to_step: TokensToStep,
  cache: Any,
  *,
  batch_size: int,
  max_decode_length: int,
  eos_id: int,
  num_traced: int = 0,
  is_padding: Bool[Array, ' batch'] | None = None,
) -> DecodeResult:
  """Generates the most probable token at every step until EOS.

  Args:
    tokens_to_step: produces the next token of each row.
    cache: handed to the first step.
    batch_size: number of rows.
    max_decode_length: rows without EOS stop here.
    eos_id: the token that ends a row.
    num_traced: number of layers whose trace the steps report.
    is_padding: rows of a partial batch that hold no example; they generate
      nothing and cost no layers.

  Returns:
    The generated rows.
  """

  def keep_going(state):
    return (state.position < max_decode_length) & ~jnp.all(state.finished)

  def step(state):
    output, cache = tokens_to_step(
      state.previous, state.position, ~state.finished, state.cache
    )
    token = jnp.where(state.finished, 0, output.token)
    return DecodingState(
      position=state.position + 1,
      previous=token,
      finished=state.finished | (token == eos_id),
      result=_append(state.result, output, token, state),
      cache=cache,
    )

  if is_padding is None:
    is_padding = jnp.zeros((batch_size,), bool)
  state = DecodingState(
    position=jnp.zeros((), jnp.int32),
    previous=jnp.zeros((batch_size,), jnp.int32),
    finished=is_padding,
    result=_no_tokens(batch_size, max_decode_length, num_traced),
    cache=cache,
  )
  return lax.while_loop(keep_going, step, state).result


def _no_tokens(batch_size, length, num_traced) -> DecodeResult:
  shape = (batch_size, length)
  return DecodeResult(
    tokens=jnp.zeros(shape, jnp.int32),
    num_layers_used=jnp.zeros(shape, jnp.int32),
    confidences=jnp.zeros(shape, jnp.float32),
    log_probs=jnp.zeros((batch_size,), jnp.float32),
    trace_confidences=jnp.zeros((*shape, num_traced), jnp.float32),
    trace_tokens=jnp.zeros((*shape, num_traced), jnp.int32),
  )


def _append(result, output, token, state) -> DecodeResult:
  """Writes one column; finished rows keep zeros."""

  def column(array, values):
    blank = state.finished.reshape((-1,) + (1,) * (values.ndim - 1))
    values = jnp.where(blank, 0, values).astype(array.dtype)
    return lax.dynamic_update_slice_in_dim(
      array, values[:, None], state.position, axis=1
    )

  log_prob = jnp.where(state.finished, 0.0, output.log_prob)
  return DecodeResult(
    tokens=column(result.tokens, token),
    num_layers_used=column(result.num_layers_used, output.num_layers_used),
    confidences=column(result.confidences, output.confidence),
    log_probs=result.log_probs + log_prob,
    trace_confidences=column(
      result.trace_confidences, output.trace_confidences
    ),
    trace_tokens=column(result.trace_tokens, output.trace_tokens),
  )
