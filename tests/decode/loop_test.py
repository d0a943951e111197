"""The token loop with a fake network: it knows no layers."""

import jax
import jax.numpy as jnp
import numpy as np

from calm_jax.decode import loop
from calm_jax.decode import request as request_lib
from calm_jax.early_exit.engine.decoder_state import TokenResult

EOS = 1
# What each row says; it goes on after its EOS, as a real network would.
SCRIPT = jnp.array([[5, 6, 1, 9, 9], [7, 1, 8, 8, 8], [2, 3, 4, 5, 6]])


def _recite(fed, cache):
  """Says the script, whatever came before."""
  token = SCRIPT[jnp.arange(3), fed.clock.positions % 5]
  traced = jnp.stack([token, token + 100], axis=-1)
  result = TokenResult(
    token=token,
    log_prob=-token.astype(jnp.float32),
    confidence=token / 10,
    num_layers_used=jnp.where(fed.undecided, 2, 0),
    num_undefined=fed.undecided.astype(jnp.int32),
    trace_confidences=traced / 10.0,
    trace_tokens=traced,
  )
  return result, cache


def _decode(
  step=_recite, cache=None, row_lengths=5, tokens=None, length=5, **asked
):
  if tokens is None:
    tokens = np.ones((3, 1), np.int32)
  request = request_lib.make(
    tokens, vocab_size=200, max_decode_length=length, trace=True, **asked
  )
  row_lengths = jnp.broadcast_to(row_lengths, 3)
  state = loop.start(request, cache, row_lengths, num_layers=2)
  return loop.run(step, request, state).result


def _with_previous(fed, cache):
  """Also reports what was fed in, as the confidence."""
  result, cache = _recite(fed, cache)
  return result.replace(confidence=fed.token.astype(jnp.float32)), cache


def test_rows_end_at_eos_and_are_zero_after_it():
  result = _decode()
  np.testing.assert_array_equal(
    result.tokens, [[5, 6, 1, 0, 0], [7, 1, 0, 0, 0], [2, 3, 4, 5, 6]]
  )
  np.testing.assert_array_equal(
    result.num_layers_used, [[2, 2, 2, 0, 0], [2, 2, 0, 0, 0], [2] * 5]
  )
  np.testing.assert_allclose(result.confidences[1], [0.7, 0.1, 0, 0, 0])
  np.testing.assert_allclose(result.log_probs, [-12, -8, -20])


def test_trace_has_one_column_per_token_and_layer():
  result = _decode()
  np.testing.assert_array_equal(
    result.trace_tokens[1], [[7, 107], [1, 101], [0, 0], [0, 0], [0, 0]]
  )
  np.testing.assert_allclose(result.trace_confidences[1, 0], [0.7, 10.7])


def test_each_token_is_fed_in_at_the_next_position():
  result = _decode(_with_previous)
  np.testing.assert_array_equal(
    result.confidences, [[0, 5, 6, 0, 0], [0, 7, 0, 0, 0], [0, 2, 3, 4, 5]]
  )


def test_stops_at_the_longest_output():
  result = _decode(length=2)
  np.testing.assert_array_equal(result.tokens, [[5, 6], [7, 1], [2, 3]])


def test_loop_ends_when_all_rows_have():
  def ends_at_once(fed, cache):
    result, _ = _recite(fed, None)
    return result.replace(token=jnp.full(3, EOS)), cache + 1

  result = _decode(ends_at_once, cache=jnp.int32(0))
  np.testing.assert_array_equal(result.tokens[:, 0], [EOS] * 3)
  assert (np.asarray(result.tokens[:, 1:]) == 0).all()


def test_padding_rows_generate_nothing():
  result = _decode(tokens=np.int32([[1], [0], [1]]))
  assert (np.asarray(result.tokens[1]) == 0).all()
  assert (np.asarray(result.num_layers_used[1]) == 0).all()
  assert float(result.log_probs[1]) == 0.0


def test_rows_end_at_their_own_length():
  result = _decode(row_lengths=jnp.array([2, 4, 3]))
  np.testing.assert_array_equal(
    result.tokens, [[5, 6, 0, 0, 0], [7, 1, 0, 0, 0], [2, 3, 4, 0, 0]]
  )
  np.testing.assert_array_equal(result.num_undefined, [2, 2, 3])


def test_prompts_are_said_first_and_cost_nothing():
  prompts = np.array([[4, 4], [3, 0], [0, 0]])
  masks = []

  def step(fed, cache):
    jax.debug.callback(lambda x: masks.append(x.tolist()), fed.is_prompt)
    return _with_previous(fed, cache)

  result = _decode(step, prompts=prompts)
  jax.effects_barrier()
  assert masks[:3] == [[True, True, False], [True, False, False], [False] * 3]
  np.testing.assert_array_equal(
    result.tokens, [[4, 4, 1, 0, 0], [3, 1, 0, 0, 0], [2, 3, 4, 5, 6]]
  )
  # What was forced is fed in like any other token.
  np.testing.assert_array_equal(
    result.confidences, [[0, 0, 4, 0, 0], [0, 3, 0, 0, 0], [0, 2, 3, 4, 5]]
  )
  np.testing.assert_array_equal(
    result.num_layers_used, [[0, 0, 2, 0, 0], [0, 2, 0, 0, 0], [2] * 5]
  )
  np.testing.assert_allclose(result.log_probs, [-1, -1, -20])
