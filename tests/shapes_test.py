"""Shapes of arrays are checked wherever a test calls calm_jax."""

import typing

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from jaxtyping import Array, Float
from testing import shapes

from calm_jax.early_exit.measures import top_k
from calm_jax.t5 import masks

Floats = Float[Array, 'rows columns']
ROWS = np.zeros((2, 3), np.float32)


@pytest.mark.parametrize('array', [np.ones(3, int), np.ones((2, 3))])
def test_an_argument_of_another_shape_or_type_is_an_error(array):
  with pytest.raises(jaxtyping.TypeCheckError, match='encoder_input_tokens'):
    masks.encoder_mask(array)


def test_arguments_share_their_axes():
  tokens = np.ones((2, 3), int)
  masks.encoder_mask(tokens, segment_ids=tokens)
  with pytest.raises(jaxtyping.TypeCheckError, match='segment_ids'):
    masks.encoder_mask(tokens, segment_ids=tokens[:, :2])


@pytest.fixture
def checked():
  """Checks as the import hook does, a function of one argument."""

  def decorated(hint, result=typing.Any):
    def function(array: hint) -> result:
      return array

    return jaxtyping.jaxtyped(typechecker=shapes.checked)(function)

  return decorated


@pytest.mark.parametrize(
  ('hint', 'good', 'bad'),
  [
    (tuple[Floats, ...], (ROWS,) * 9, (*(ROWS,) * 9, ROWS[0])),
    (dict[str, Floats], {'a': ROWS, 'b': ROWS}, {'a': ROWS, 'b': ROWS.T}),
    (Floats | None, None, ROWS[0]),
  ],
)
def test_every_member_counts(checked, hint, good, bad):
  assert checked(hint)(good) is good
  with pytest.raises(jaxtyping.TypeCheckError):
    checked(hint)(bad)


def test_the_result_shares_the_axes_of_arguments(checked):
  assert checked(Floats, Floats)(ROWS) is ROWS
  with pytest.raises(jaxtyping.TypeCheckError, match='return value'):
    checked(Floats, Float[Array, 'columns rows'])(ROWS)


def test_states_are_checked_where_we_make_them_and_not_where_jax_does():
  with pytest.raises(jaxtyping.TypeCheckError, match='log_rest'):
    top_k.Candidates(jnp.ones((2, 3), int), jnp.ones(3), num_exits=0)
  state = top_k.Candidates(jnp.ones((2, 3), int), jnp.ones(2), num_exits=0)
  stacked = jax.tree.map(lambda x: x[None], state)
  assert stacked.ids.shape == (1, 2, 3)


def test_what_has_no_arrays_is_left_as_it_is():
  assert not hasattr(top_k.TopKPropagation.start_token, '__wrapped__')
  assert hasattr(masks.encoder_mask, '__wrapped__')
