"""The token loop: generation in one `lax.while_loop`.

It receives `tokens_to_step`, a function from the previous tokens to the next
ones, and knows no network, no layers and no exits; what a step reports beside
its token is only collected.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import gin
import jax
import jax.numpy as jnp
from flax import struct
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from calm_jax import errors
from calm_jax.early_exit.engine import clock as clock_lib
from calm_jax.early_exit.engine.decoder_state import TokenResult
from calm_jax.t5 import rows as rows_lib

# (previous token [batch], clock, undecided [batch], cache) -> result, cache
TokensToStep = Callable[
  [jax.Array, clock_lib.Clock, jax.Array, Any], tuple[TokenResult, Any]
]


@gin.configurable
@dataclasses.dataclass(frozen=True)
class ProportionalLength:
  """Longest output as a function of the input: ratio * its tokens + extra.

  For tasks whose output is about as long as the input. A row that fell into a
  loop then ends soon, instead of at the longest output of all.

  Attributes:
    ratio: output tokens per input token (EOS counts on both sides).
    extra: output tokens beyond that.

  Raises:
    ConfigError: no input could have any output.
  """

  ratio: float = 1.0
  extra: int = 0

  def __post_init__(self):
    if not (0 <= self.ratio < float('inf') and self.ratio + self.extra > 0):
      raise errors.ConfigError(
        'ProportionalLength needs a ratio of at least 0 and a positive sum of'
        f' ratio and extra, got {self.ratio} and {self.extra}.'
      )

  def __call__(
    self, encoder_input_tokens: Int[Array, 'batch source']
  ) -> Int[Array, ' batch']:
    """[batch, source] tokens, 0 is padding -> longest output of each row."""
    num_tokens = jnp.sum(encoder_input_tokens > 0, axis=-1)
    longest = jnp.ceil(self.ratio * num_tokens + self.extra)
    return jnp.maximum(longest.astype(jnp.int32), 1)


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


@struct.dataclass
class DecodingState:
  """Carried from token to token.

  Attributes:
    clock: time of the token to be produced, and when each row began.
    previous: [batch], the token before it; 0, the start symbol, at first.
    finished: [batch], rows that have produced EOS.
    row_lengths: [batch], longest output of each row.
    result: what has been generated so far; the token of time t is in column t
      modulo the longest output.
    cache: the network's own.
  """

  clock: clock_lib.Clock
  previous: Int[Array, ' batch']
  finished: Bool[Array, ' batch']
  row_lengths: Int[Array, ' batch']
  result: DecodeResult
  cache: Any


def decode(
  tokens_to_step: TokensToStep,
  cache: Any,
  *,
  batch_size: int,
  max_decode_length: int,
  eos_id: int,
  num_traced: int = 0,
  is_padding: Bool[Array, ' batch'] | None = None,
  row_lengths: Int[Array, ' batch'] | None = None,
  prompts: Int[Array, 'batch prompt'] | None = None,
) -> DecodeResult:
  """Generates what each step says, until EOS.

  Args:
    tokens_to_step: produces the next token of each row.
    cache: handed to the first step.
    batch_size: number of rows.
    max_decode_length: rows without EOS stop here.
    eos_id: the token that ends a row.
    num_traced: number of layers whose trace the steps report.
    is_padding: rows of a partial batch that hold no example; they generate
      nothing and cost no layers.
    row_lengths: longest output of each row, where it is less than
      `max_decode_length`.
    prompts: tokens that a row starts with, whatever the steps say; 0 after
      them. They are part of the output, but not of its log-probability, and
      count no layers.

  Returns:
    The generated rows.
  """
  state = start(cache, batch_size, max_decode_length, num_traced)
  if is_padding is not None:
    state = state.replace(finished=is_padding)
  if row_lengths is not None:
    state = state.replace(
      row_lengths=jnp.minimum(row_lengths, max_decode_length)
    )
  return run(tokens_to_step, state, eos_id=eos_id, prompts=prompts).result


def start(
  cache: Any, batch_size: int, max_decode_length: int, num_traced: int = 0
) -> DecodingState:
  """Rows of which nothing has been generated; arguments as for `decode`."""
  zeros = jnp.zeros((batch_size,), jnp.int32)
  return DecodingState(
    clock=clock_lib.Clock(jnp.zeros((), jnp.int32), zeros),
    previous=zeros,
    finished=zeros.astype(bool),
    row_lengths=jnp.full((batch_size,), max_decode_length),
    result=_no_tokens(batch_size, max_decode_length, num_traced),
    cache=cache,
  )


def restarted(
  state: DecodingState,
  rows: rows_lib.Rows,
  row_lengths: Int[Array, ' rows'],
  cache: Any,
  *,
  is_padding: Bool[Array, ' rows'],
) -> DecodingState:
  """Another sequence in some rows, which begin now.

  Args:
    state: in which those rows have finished.
    rows: which ones.
    row_lengths: longest outputs of the new sequences.
    cache: the network's own, in which they have been begun.
    is_padding: which of them hold no example, and so have finished.
  """
  longest = state.result.tokens.shape[1]
  new = start((), len(rows.ids), longest, state.result.trace_tokens.shape[2])
  now = jnp.full_like(rows.ids, state.clock.time)
  return DecodingState(
    clock=state.clock.replace(starts=rows.put(state.clock.starts, now)),
    previous=rows.put(state.previous, new.previous),
    finished=rows.put(state.finished, is_padding),
    row_lengths=rows.put(state.row_lengths, jnp.minimum(row_lengths, longest)),
    result=rows.put(state.result, new.result),
    cache=cache,
  )


def run(
  tokens_to_step: TokensToStep,
  state: DecodingState,
  *,
  eos_id: int | Int[Array, ''],
  num_finished: int | Int[Array, ''] | None = None,
  prompts: Int[Array, 'batch prompt'] | None = None,
) -> DecodingState:
  """Generates until some rows have finished.

  Args:
    tokens_to_step, eos_id, prompts: as for `decode`.
    state: from `start`, or from an earlier run.
    num_finished: of how many rows, those included that had before; all if None.
  """
  if num_finished is None:
    num_finished = state.finished.shape[0]

  def step(state):
    output, cache = tokens_to_step(
      state.previous, state.clock, ~state.finished, state.cache
    )
    positions = state.clock.positions
    output = _with_forced(output, prompt_at(prompts, positions))
    token = jnp.where(state.finished, 0, output.token)
    return state.replace(
      clock=state.clock.replace(time=state.clock.time + 1),
      previous=token,
      finished=state.finished
      | (token == eos_id)
      | (positions + 1 >= state.row_lengths),
      result=_append(state.result, output, token, state),
      cache=cache,
    )

  return lax.while_loop(
    lambda state: jnp.sum(state.finished) < num_finished, step, state
  )


def prompt_at(prompts, positions) -> jax.Array | int:
  """[batch] tokens that a prompt forces at positions; 0 where it does not."""
  if prompts is None:
    return 0
  length = prompts.shape[1]
  at = jnp.minimum(positions, length - 1)[:, None]
  column = jnp.take_along_axis(prompts, at, axis=1)[:, 0]
  return jnp.where(positions < length, column, 0)


def _with_forced(output, forced):
  """A step's result where the prompt decides some rows' token."""
  if isinstance(forced, int):
    return output
  is_free = forced == 0

  def free(values):
    shape = (-1,) + (1,) * (values.ndim - 1)
    return jnp.where(is_free.reshape(shape), values, 0)

  kept = jax.tree.map(free, output)
  return kept.replace(token=jnp.where(is_free, output.token, forced))


def _no_tokens(batch_size, length, num_traced) -> DecodeResult:
  shape = (batch_size, length)
  return DecodeResult(
    tokens=jnp.zeros(shape, jnp.int32),
    num_layers_used=jnp.zeros(shape, jnp.int32),
    confidences=jnp.zeros(shape, jnp.float32),
    log_probs=jnp.zeros((batch_size,), jnp.float32),
    num_undefined=jnp.zeros((batch_size,), jnp.int32),
    trace_confidences=jnp.zeros((*shape, num_traced), jnp.float32),
    trace_tokens=jnp.zeros((*shape, num_traced), jnp.int32),
  )


def _append(result, output, token, state) -> DecodeResult:
  """Writes one column; finished rows keep theirs."""
  slot = state.clock.time % result.tokens.shape[1]

  def column(array, values):
    kept = state.finished.reshape((-1,) + (1,) * values.ndim)
    old = lax.dynamic_slice_in_dim(array, slot, 1, axis=1)
    values = jnp.where(kept, old, values[:, None].astype(array.dtype))
    return lax.dynamic_update_slice_in_dim(array, values, slot, axis=1)

  log_prob = jnp.where(state.finished, 0.0, output.log_prob)
  return DecodeResult(
    tokens=column(result.tokens, token),
    num_layers_used=column(result.num_layers_used, output.num_layers_used),
    confidences=column(result.confidences, output.confidence),
    log_probs=result.log_probs + log_prob,
    num_undefined=result.num_undefined
    + jnp.where(state.finished, 0, output.num_undefined),
    trace_confidences=column(
      result.trace_confidences, output.trace_confidences
    ),
    trace_tokens=column(result.trace_tokens, output.trace_tokens),
  )
