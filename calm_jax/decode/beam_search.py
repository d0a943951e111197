"""Beam search with the full model; early exit has no part in it.

A beam compares sequences by their scores under one model. Scores of tokens that
left at different layers come from different distributions, so a beam over them
would compare what cannot be compared.

    one step of all beams -> logits -> the best continuations -> reordered cache
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import gin
import jax
import jax.numpy as jnp
from flax import struct
from jax import lax
from jaxtyping import Array, Float, Int

from calm_jax import errors
from calm_jax.decode import prompts as prompts_lib

# (previous token [rows], position, cache) -> logits [rows, vocab], cache;
# rows are batch * beams.
TokensToLogits = Callable[[jax.Array, jax.Array, Any], tuple[jax.Array, Any]]

# The score of a beam that holds no sequence. Whatever is added to it or divides
# it, it stays below every sequence's.
_NEVER = -jnp.inf


@gin.configurable
@dataclasses.dataclass(frozen=True)
class BeamSearch:
  """Beam search as a `decode_fn`, with as many beams as outputs per source.

  Attributes:
    alpha: exponent of the length penalty; 0 for none, 0.6 is T5X's.

  Raises:
    ConfigError: alpha is negative, infinite or NaN.
  """

  alpha: float = 0.6

  def __post_init__(self):
    check_alpha(self.alpha)


@struct.dataclass
class _Beams:
  """Sequences of one kind: still growing, or ended by EOS."""

  tokens: Int[Array, 'batch beams target']
  scores: Float[Array, 'batch beams']


@struct.dataclass
class _State:
  position: Int[Array, '']
  live: _Beams  # scores: log-probabilities
  finished: _Beams  # scores: log-probabilities over the length penalty
  cache: Any


def brevity_penalty(alpha: float, length: jax.Array) -> jax.Array:
  """((5 + length) / 6)^alpha (Wu et al. 2016), as T5X's."""
  return jnp.power((5.0 + length) / 6.0, alpha)


def check_search(
  num_beams: int, alpha: float | jax.Array, max_decode_length: int
) -> None:
  """Raises ConfigError unless there is a beam, and `check_alpha` is content."""
  if num_beams < 1:
    raise errors.ConfigError(
      f'The number of beams must be at least 1, got {num_beams}.'
    )
  check_alpha(alpha, max_decode_length)


def check_alpha(alpha: float | jax.Array, max_decode_length: int = 1) -> None:
  """Raises ConfigError unless all length penalties are finite and ascend.

  The search ends by this order, so that another alpha would end it too early.
  One that is traced cannot be checked.
  """
  if isinstance(alpha, jax.core.Tracer):
    return
  longest = math.log((5 + max_decode_length) / 6)
  largest = math.log(float(jnp.finfo(jnp.float32).max))
  if not (0 <= alpha < math.inf and alpha * longest < largest):
    raise errors.ConfigError(
      f'alpha, the exponent of the length penalty, must be finite, at least 0,'
      f' and such that ((5 + {max_decode_length}) / 6)^alpha is a float32, got'
      f' {alpha}.'
    )


def beam_decode(
  tokens_to_logits: TokensToLogits,
  cache: Any,
  *,
  batch_size: int,
  num_beams: int,
  max_decode_length: int,
  eos_id: int,
  alpha: float = 0.6,
  row_lengths: Int[Array, ' batch'] | None = None,
  prompts: Int[Array, 'batch prompt'] | None = None,
) -> tuple[Int[Array, 'batch beams target'], Float[Array, 'batch beams']]:
  """The most probable sequences that the beams find.

  Args:
    tokens_to_logits: one step of the full model.
    cache: handed to the first step; its arrays begin with batch * num_beams,
      but for scalars.
    batch_size: number of sources.
    num_beams: sequences kept per source. One beam is greedy decoding: it ends
      where the best token is an EOS. (T5X's goes on, and keeps the second best
      token where that is an EOS.)
    max_decode_length: longest sequence, EOS included.
    eos_id: the token that ends a sequence.
    alpha: exponent of the length penalty; 0.6 is T5X's.
    row_lengths: longest sequence of each source, where it is less than
      `max_decode_length`: its last token is an EOS.
    prompts: tokens that all sequences of a source start with, 0 after them;
      without EOS. They add nothing to the log-probability, but count for the
      length penalty, as in T5X.

  Returns:
    Tokens, 0 after EOS, and scores (log-probability over length penalty), from
    the worst to the best, as in T5X. A source for which no beam has ended has
    its unfinished sequences, their log-probability over the same penalty. Beams
    that hold no sequence, because fewer were found, come first: their tokens
    are 0, their score is -inf.

  Raises:
    ConfigError: no beam, or no such alpha.
  """
  check_search(num_beams, alpha, max_decode_length)
  if row_lengths is None:
    row_lengths = jnp.full((batch_size,), max_decode_length + 1)
  shape = (batch_size, num_beams)
  nothing = _Beams(
    tokens=jnp.zeros((*shape, max_decode_length), jnp.int32),
    scores=jnp.full(shape, _NEVER),
  )
  # Twice the beams: if half of them end, there still are enough to go on.
  num_candidates = 2 * num_beams if num_beams > 1 else 1
  # All beams start alike: only the first may go on, or all would stay alike.
  first = jnp.where(jnp.arange(num_beams) == 0, 0.0, _NEVER)
  state = _State(
    position=jnp.zeros((), jnp.int32),
    live=nothing.replace(scores=jnp.broadcast_to(first, shape)),
    finished=nothing,
    cache=cache,
  )

  def keep_going(state):
    # No live sequence can still beat the worst finished one: its
    # log-probability only falls, and no penalty is larger than the last.
    best = state.live.scores[:, 0] / brevity_penalty(alpha, max_decode_length)
    worst = jnp.min(state.finished.scores, axis=1)
    return (state.position < max_decode_length) & jnp.any(best > worst)

  def step(state):
    previous = lax.dynamic_index_in_dim(
      state.live.tokens, jnp.maximum(state.position - 1, 0), 2, False
    )
    previous = jnp.where(state.position > 0, previous, 0)
    logits, cache = tokens_to_logits(
      previous.reshape(-1), state.position, state.cache
    )
    log_probs = jax.nn.log_softmax(logits.astype(jnp.float32))
    log_probs = log_probs.reshape(*shape, -1)
    must_end = (state.position + 1 >= row_lengths)[:, None, None]
    is_other = jnp.arange(log_probs.shape[-1]) != eos_id
    log_probs = jnp.where(must_end & is_other, _NEVER, log_probs)
    log_probs = _with_prompt(log_probs, prompts, state.position)
    scores = log_probs + state.live.scores[..., None]
    candidates, beams = _best_continuations(
      state.live.tokens, scores, num_candidates, state.position
    )
    last = lax.dynamic_index_in_dim(candidates.tokens, state.position, 2, False)
    ended = last == eos_id
    penalty = brevity_penalty(alpha, state.position + 1.0)
    finished = _best(
      _joined(
        state.finished,
        candidates.replace(
          scores=jnp.where(ended, candidates.scores / penalty, _NEVER)
        ),
      ),
      num_beams,
    )[0]
    live, chosen = _best(
      candidates.replace(scores=jnp.where(ended, _NEVER, candidates.scores)),
      num_beams,
    )
    beams = jnp.take_along_axis(beams, chosen, axis=1)
    rows = (jnp.arange(batch_size)[:, None] * num_beams + beams).reshape(-1)
    return _State(
      position=state.position + 1,
      live=live,
      finished=finished,
      cache=jax.tree.map(lambda x: x[rows] if x.ndim else x, cache),
    )

  state = lax.while_loop(keep_going, step, state)
  any_ended = jnp.max(state.finished.scores, axis=1, keepdims=True) > _NEVER
  penalty = brevity_penalty(alpha, max_decode_length)
  tokens = jnp.where(
    any_ended[..., None], state.finished.tokens, state.live.tokens
  )
  scores = jnp.where(
    any_ended, state.finished.scores, state.live.scores / penalty
  )
  tokens = jnp.where(scores[..., None] > _NEVER, tokens, 0)
  return tokens[:, ::-1], scores[:, ::-1]


def _with_prompt(log_probs, prompts, position):
  """Where a prompt decides, its token is certain, and no other possible."""
  if prompts is None:
    return log_probs
  positions = jnp.full(prompts.shape[:1], position)
  forced = prompts_lib.token_at(prompts, positions)[:, None, None]
  is_forced = jnp.arange(log_probs.shape[-1]) == forced
  return jnp.where(forced == 0, log_probs, jnp.where(is_forced, 0.0, _NEVER))


def _best_continuations(tokens, scores, count, position):
  """The best of all (beam, token) pairs, and the beam that each came from."""
  batch_size, num_beams, vocab_size = scores.shape
  flat = scores.reshape(batch_size, -1)
  best, where = lax.top_k(flat, min(count, num_beams * vocab_size))
  beams, last = where // vocab_size, where % vocab_size
  grown = jnp.take_along_axis(tokens, beams[..., None], axis=1)
  grown = lax.dynamic_update_index_in_dim(grown, last, position, 2)
  return _Beams(grown, best), beams


def _best(beams: _Beams, count: int) -> tuple[_Beams, jax.Array]:
  """The `count` best, best first, and where they stood."""
  scores, where = lax.top_k(beams.scores, count)
  tokens = jnp.take_along_axis(beams.tokens, where[..., None], axis=1)
  return _Beams(tokens, scores), where


def _joined(first: _Beams, second: _Beams) -> _Beams:
  return jax.tree.map(
    lambda a, b: jnp.concatenate([a, b], axis=1), first, second
  )
