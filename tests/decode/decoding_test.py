"""The token loop with a fake network: it knows no layers."""

import jax.numpy as jnp
import numpy as np
import pytest

from calm_jax import errors
from calm_jax.decode import decoding
from calm_jax.early_exit.engine.decoder_state import TokenResult

EOS = 1
# What each row says; it goes on after its EOS, as a real network would.
SCRIPT = jnp.array([[5, 6, 1, 9, 9], [7, 1, 8, 8, 8], [2, 3, 4, 5, 6]])


def _recite(previous, clock, undecided, cache):
  """Says the script, whatever came before."""
  del previous
  token = SCRIPT[jnp.arange(3), clock.positions % 5]
  traced = jnp.stack([token, token + 100], axis=-1)
  result = TokenResult(
    token=token,
    log_prob=-token.astype(jnp.float32),
    confidence=token / 10,
    num_layers_used=jnp.where(undecided, 2, 0),
    num_undefined=undecided.astype(jnp.int32),
    trace_confidences=traced / 10.0,
    trace_tokens=traced,
  )
  return result, cache


def _decode(max_decode_length=5, **kwargs):
  return decoding.decode(
    _recite,
    None,
    batch_size=3,
    max_decode_length=max_decode_length,
    eos_id=EOS,
    num_traced=2,
    **kwargs,
  )


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
  def spy(previous, clock, undecided, cache):
    result, cache = _recite(previous, clock, undecided, cache)
    return result.replace(confidence=previous.astype(jnp.float32)), cache

  result = decoding.decode(
    spy,
    None,
    batch_size=3,
    max_decode_length=5,
    eos_id=EOS,
    num_traced=2,
  )
  np.testing.assert_array_equal(
    result.confidences, [[0, 5, 6, 0, 0], [0, 7, 0, 0, 0], [0, 2, 3, 4, 5]]
  )


def test_stops_at_the_longest_output():
  result = _decode(max_decode_length=2)
  np.testing.assert_array_equal(result.tokens, [[5, 6], [7, 1], [2, 3]])


def test_loop_ends_when_all_rows_have():
  def ends_at_once(previous, clock, undecided, cache):
    result, _ = _recite(previous, clock, undecided, None)
    return result.replace(token=jnp.full(3, EOS)), cache + 1

  result = decoding.decode(
    ends_at_once,
    jnp.int32(0),
    batch_size=3,
    max_decode_length=5,
    eos_id=EOS,
    num_traced=2,
  )
  np.testing.assert_array_equal(result.tokens[:, 0], [EOS] * 3)
  assert (np.asarray(result.tokens[:, 1:]) == 0).all()


def test_padding_rows_generate_nothing():
  result = _decode(is_padding=jnp.array([False, True, False]))
  assert (np.asarray(result.tokens[1]) == 0).all()
  assert (np.asarray(result.num_layers_used[1]) == 0).all()
  assert float(result.log_probs[1]) == 0.0


def test_rows_end_at_their_own_length():
  result = _decode(row_lengths=jnp.array([2, 4, 3]))
  np.testing.assert_array_equal(
    result.tokens, [[5, 6, 0, 0, 0], [7, 1, 0, 0, 0], [2, 3, 4, 0, 0]]
  )
  np.testing.assert_array_equal(result.num_undefined, [2, 2, 3])


def test_proportional_length_by_hand():
  tokens = jnp.array([[4, 5, 1, 0], [4, 5, 6, 1], [0, 0, 0, 0]])
  longest = decoding.ProportionalLength(ratio=1.5, extra=1)(tokens)
  assert longest.tolist() == [6, 7, 1]
  with pytest.raises(errors.ConfigError, match='positive sum'):
    decoding.ProportionalLength(ratio=0.5, extra=-1)


def test_prompts_are_said_first_and_cost_nothing():
  def spy(previous, clock, undecided, cache):
    result, cache = _recite(previous, clock, undecided, cache)
    return result.replace(confidence=previous.astype(jnp.float32)), cache

  prompts = jnp.array([[4, 4], [3, 0], [0, 0]])
  result = decoding.decode(
    spy,
    None,
    batch_size=3,
    max_decode_length=5,
    eos_id=EOS,
    num_traced=2,
    prompts=prompts,
  )
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
