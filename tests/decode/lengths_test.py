"""Bounds of an output by its input, by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from calm_jax import errors
from calm_jax.decode import lengths
from calm_jax.decode import request as request_lib

TOKENS = np.array([[4, 5, 1, 0], [4, 5, 6, 1], [0, 0, 0, 0]])


def test_proportional_length_by_hand():
  longest = lengths.ProportionalLength(ratio=1.5, extra=1)(jnp.array(TOKENS))
  assert longest.tolist() == [6, 7, 1]
  with pytest.raises(errors.ConfigError, match='positive sum'):
    lengths.ProportionalLength(ratio=0.5, extra=-1)
  for extra in (0.5, float('inf')):
    with pytest.raises(errors.ConfigError, match='extra must be a whole'):
      lengths.ProportionalLength(extra=extra)


@pytest.mark.parametrize(
  'bound, asked, expected',
  [
    (None, {}, [9, 9, 9]),
    (lengths.ProportionalLength(0.5), {}, [2, 2, 3]),
    (None, {'max_decode_steps': 4}, [4, 5, 6]),
    (None, {'max_decode_steps': np.array([1, 2, 9])}, [1, 3, 9]),
    (lengths.ProportionalLength(0.5), {'max_decode_steps': 1}, [1, 2, 3]),
  ],
)
def test_longest_outputs_by_hand(bound, asked, expected):
  """With prompts of 0, 1 and 2 tokens."""
  prompts = np.array([[0, 0, 7], [5, 1, 0], [5, 6, 0]])
  request = request_lib.make(
    TOKENS, vocab_size=24, max_decode_length=9, prompts=prompts, **asked
  )
  assert lengths.longest_outputs(request, bound).tolist() == expected
