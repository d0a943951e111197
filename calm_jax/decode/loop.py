"""The token loop: generation in one `lax.while_loop`.

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
from jaxtyping import Array, Bool, Int

from calm_jax.decode import prompts as prompts_lib
from calm_jax.decode import request as request_lib
from calm_jax.decode import result as result_lib
from calm_jax.early_exit.engine import clock as clock_lib
from calm_jax.early_exit.engine.decoder_state import TokenInput, TokenResult
from calm_jax.t5 import rows as rows_lib

# (what is fed in, cache) -> result, cache
TokensToStep = Callable[[TokenInput, Any], tuple[TokenResult, Any]]


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
  result: result_lib.DecodeResult
  cache: Any


def start(
  request: request_lib.DecodeRequest,
  cache: Any,
  row_lengths: Int[Array, ' batch'],
  num_layers: int,
) -> DecodingState:
  """Rows of which nothing has been generated.

  Args:
    request: by row. Rows of padding count as finished.
    cache: handed to the first step.
    row_lengths: longest output of each row; none is longer than the request's.
    num_layers: of the decoder, for the trace.
  """
  batch_size, length = request.num_sources, request.max_decode_length
  zeros = jnp.zeros((batch_size,), jnp.int32)
  num_traced = num_layers if request.trace else 0
  return DecodingState(
    clock=clock_lib.Clock(jnp.zeros((), jnp.int32), zeros),
    previous=zeros,
    finished=request.is_padding,
    row_lengths=jnp.minimum(row_lengths, length),
    result=result_lib.DecodeResult.empty(batch_size, length, num_traced),
    cache=cache,
  )


def restarted(
  state: DecodingState, rows: rows_lib.Rows, new: DecodingState, cache: Any
) -> DecodingState:
  """Other sequences in some rows, which begin now.

  Args:
    state: in which those rows have finished.
    rows: which ones.
    new: from `start`, of the new sequences alone.
    cache: the network's own, in which they have been begun.
  """
  now = jnp.full_like(rows.ids, state.clock.time)
  return DecodingState(
    clock=state.clock.replace(starts=rows.put(state.clock.starts, now)),
    previous=rows.put(state.previous, new.previous),
    finished=rows.put(state.finished, new.finished),
    row_lengths=rows.put(state.row_lengths, new.row_lengths),
    result=rows.put(state.result, new.result),
    cache=cache,
  )


def run(
  tokens_to_step: TokensToStep,
  request: request_lib.DecodeRequest,
  state: DecodingState,
  num_finished: int | Int[Array, ''] | None = None,
) -> DecodingState:
  """Generates what each step says, until some rows have finished.

  Where a row's prompt decides its token, what the step says of it is dropped.

  Args:
    tokens_to_step: produces the next token of each row.
    request: by row.
    state: from `start`, or from an earlier run.
    num_finished: of how many rows, those included that had before; all if None.
  """
  if num_finished is None:
    num_finished = state.finished.shape[0]

  def step(state):
    positions = state.clock.positions
    forced, is_prompt = None, None
    if request.prompts is not None:
      forced = prompts_lib.token_at(request.prompts, positions)
      is_prompt = forced != 0
    fed = TokenInput(state.previous, state.clock, ~state.finished, is_prompt)
    output, cache = tokens_to_step(fed, state.cache)
    if forced is not None:
      output = _with_forced(output, forced)
    token = jnp.where(state.finished, 0, output.token)
    return state.replace(
      clock=state.clock.replace(time=state.clock.time + 1),
      previous=token,
      finished=state.finished
      | (token == request.eos_id)
      | (positions + 1 >= state.row_lengths),
      result=state.result.with_tokens(
        state.clock.time, output.replace(token=token), state.finished
      ),
      cache=cache,
    )

  return lax.while_loop(
    lambda state: jnp.sum(state.finished) < num_finished, step, state
  )


def _with_forced(output, forced):
  """A step's result where the prompt decides some rows' token."""
  is_free = forced == 0

  def free(values):
    shape = (-1,) + (1,) * (values.ndim - 1)
    return jnp.where(is_free.reshape(shape), values, 0)

  kept = jax.tree.map(free, output)
  return kept.replace(token=jnp.where(is_free, output.token, forced))
