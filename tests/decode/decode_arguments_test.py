"""What is refused before anything is compiled, and what cannot be checked."""

import jax
import numpy as np
import pytest

from calm_jax import errors
from calm_jax.decode import decode_arguments
from calm_jax.early_exit.engine import sampling


@pytest.mark.parametrize('thresholds', [-0.1, 1.1, [0.5, float('nan')]])
def test_thresholds_lie_in_the_unit_interval(thresholds):
  with pytest.raises(errors.ConfigError, match=r'in \[0, 1\], got'):
    decode_arguments.check_thresholds(thresholds)
  decode_arguments.check_thresholds([0.0, 1.0])


@pytest.mark.parametrize(
  'thresholds, others',
  [
    ((2,), {}),
    ((), {}),
    ((0, 4), {}),
    ((3,), {'prompts': (1, 5)}),
    ((3, 2), {'seeds': (3,)}),
  ],
)
def test_arrays_belong_to_the_same_sources(thresholds, others):
  others = {name: np.zeros(shape) for name, shape in others.items()}
  tokens = np.zeros((3, 7))
  with pytest.raises(errors.ConfigError, match=r'for each source.* got .*3'):
    decode_arguments.check_rows(tokens, np.zeros(thresholds), **others)
  grid = np.zeros((3, 2))
  decode_arguments.check_rows(tokens, grid, grid, np.zeros((3, 5)))


@pytest.mark.parametrize('eos_id', [-1, 0, 8])
def test_an_end_is_a_token(eos_id):
  with pytest.raises(errors.ConfigError, match='from 1 to 7, a token'):
    decode_arguments.check_eos_id(eos_id, 8)
  decode_arguments.check_eos_id(7, 8)


def test_a_sampler_needs_seeds():
  with pytest.raises(errors.ConfigError, match='needs a seed'):
    decode_arguments.check_seeds(sampling.Sampler(), None)
  decode_arguments.check_seeds(None, None)


def test_traced_values_pass():
  @jax.jit
  def check(threshold, eos_id):
    decode_arguments.check_thresholds(threshold)
    decode_arguments.check_eos_id(eos_id, 8)
    return eos_id

  assert check(2.0, 9) == 9


def test_prompts_end_before_their_first_eos_or_0():
  prompts = np.int32([[5, 6, 7], [5, 3, 7], [5, 0, 7], [0, 6, 7]])
  found = decode_arguments.checked_prompts(prompts, 3, 3)
  assert found.tolist() == [[5, 6, 7], [5, 0, 0], [5, 0, 0], [0, 0, 0]]
  assert decode_arguments.checked_prompts(prompts[:, :0], 3, 3) is None
  with pytest.raises(errors.ConfigError, match='got 3 columns'):
    decode_arguments.checked_prompts(prompts, 3, 2)
