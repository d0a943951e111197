"""What is refused before anything is compiled, and what cannot be checked."""

import functools

import jax
import numpy as np
import pytest

from calm_jax import errors
from calm_jax.decode import beam_search, checks, decode_fns
from calm_jax.decode import request as request_lib
from calm_jax.early_exit.engine import sampling

TOKENS = np.ones((3, 7), np.int32)
SEEDS = np.arange(3, dtype=np.uint32)
make = functools.partial(request_lib.make, vocab_size=8, max_decode_length=3)


@pytest.mark.parametrize('thresholds', [-0.1, 1.1, [0.5, float('nan')]])
def test_thresholds_lie_in_the_unit_interval(thresholds):
  with pytest.raises(errors.ConfigError, match=r'in \[0, 1\], got'):
    checks.check_thresholds(thresholds)
  with pytest.raises(errors.ConfigError, match=r'in \[0, 1\], got'):
    make(TOKENS, np.resize(thresholds, 3))
  assert make(TOKENS, [0.0, 1.0, 0.5]).thresholds.dtype == np.float32


def test_without_thresholds_the_full_model_is_asked():
  assert make(TOKENS).thresholds.tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(
  'thresholds, others',
  [
    ((2,), {}),
    ((), {}),
    ((0, 4), {}),
    ((3,), {'prompts': (1, 2)}),
    ((3, 2), {'seeds': (3,)}),
  ],
)
def test_arrays_belong_to_the_same_sources(thresholds, others):
  others = {name: np.zeros(shape) for name, shape in others.items()}
  with pytest.raises(errors.ConfigError, match=r'for each source.* got .*3'):
    make(TOKENS, np.zeros(thresholds), **others)
  grid = np.zeros((3, 2))
  request = make(
    TOKENS,
    grid,
    seeds=grid.astype(np.uint32),
    prompts=np.zeros((3, 2), int),
    decode_fn=sampling.Sampler(),
  )
  assert (request.num_sources, request.rows_per_source) == (3, 2)


@pytest.mark.parametrize('eos_id', [-1, 0, 8])
def test_an_end_is_a_token(eos_id):
  with pytest.raises(errors.ConfigError, match='from 1 to 7, a token'):
    make(TOKENS, eos_id=eos_id)
  make(TOKENS, eos_id=7)


@pytest.mark.parametrize('length', [0, -1, 2.0, True, None])
def test_a_longest_output_is_a_positive_integer(length):
  with pytest.raises(errors.ConfigError, match='max_decode_length must be'):
    make(TOKENS, max_decode_length=length)


def test_a_sampler_needs_seeds_and_nothing_else_takes_them():
  with pytest.raises(errors.ConfigError, match='needs a seed'):
    make(TOKENS, decode_fn=sampling.Sampler())
  with pytest.raises(errors.ConfigError, match='nothing else takes seeds'):
    make(TOKENS, seeds=SEEDS)
  make(TOKENS, seeds=SEEDS, decode_fn=sampling.Sampler())


@pytest.mark.parametrize(
  'asked, said',
  [
    ({'thresholds': np.full((3, 2), 0.5)}, 'full model alone'),
    ({'trace': True}, 'full model alone'),
    ({'decode_fn': beam_search.BeamSearch(1e3)}, 'alpha'),
  ],
)
def test_a_beam_search_is_of_the_full_model(asked, said):
  asked = {'decode_fn': beam_search.BeamSearch(), **asked}
  with pytest.raises(errors.ConfigError, match=said):
    make(TOKENS, max_decode_length=999, **{'thresholds': None, **asked})


def test_traced_values_pass():
  @jax.jit
  def traced(tokens, thresholds, eos_id):
    request = make(tokens, thresholds, eos_id=eos_id)
    return request.thresholds, request.eos_id

  thresholds, eos_id = traced(TOKENS, np.full(3, 2.0), 9)
  assert thresholds.tolist() == [2.0] * 3 and eos_id == 9


def test_prompts_end_before_their_first_eos_or_0():
  tokens = np.ones((4, 2), np.int32)
  prompts = np.int32([[5, 6, 7], [5, 3, 7], [5, 0, 7], [0, 6, 7]])
  found = make(tokens, prompts=prompts, eos_id=3).prompts
  assert found.tolist() == [[5, 6, 7], [5, 0, 0], [5, 0, 0], [0, 0, 0]]
  assert make(tokens, prompts=prompts[:, :0]).prompts is None
  with pytest.raises(errors.ConfigError, match='got 3 columns'):
    make(tokens, prompts=prompts, max_decode_length=2)


def test_each_row_becomes_a_source_of_its_own():
  request = make(
    np.arange(1, 4)[:, None],
    np.linspace(0, 1, 6).reshape(3, 2),
    seeds=np.arange(6, dtype=np.uint32).reshape(3, 2),
    prompts=np.array([[5], [0], [6]]),
    max_decode_steps=np.array([1, 2, 3]),
    decode_fn=sampling.Sampler(),
    eos_id=4,
  ).by_row()
  assert request.encoder_input_tokens[:, 0].tolist() == [1, 1, 2, 2, 3, 3]
  np.testing.assert_allclose(request.thresholds, np.linspace(0, 1, 6))
  assert request.seeds.tolist() == list(range(6))
  assert request.prompts[:, 0].tolist() == [5, 5, 0, 0, 6, 6]
  assert request.max_decode_steps.tolist() == [1, 1, 2, 2, 3, 3]
  assert (request.eos_id, request.rows_per_source, request.num_rows) == (
    4,
    1,
    6,
  )


def test_a_request_is_the_same_after_a_compiled_program():
  request = make(TOKENS, trace=True)
  same = jax.jit(lambda x: x)(request)
  assert (same.trace, same.max_decode_length) == (True, 3)
  np.testing.assert_array_equal(same.encoder_input_tokens, TOKENS)


@pytest.mark.parametrize('num_decodes, said', [(0, 'at least'), (2, 'sampler')])
def test_outputs_that_would_be_none_or_the_same(num_decodes, said):
  with pytest.raises(errors.ConfigError, match=said):
    checks.check_num_decodes(num_decodes, decode_fns.Greedy())
  checks.check_num_decodes(2, beam_search.BeamSearch())


def test_more_decodes_keep_the_first_seeds():
  seeds = request_lib.row_seeds(jax.random.key(3), 3, 4)
  fewer = request_lib.row_seeds(jax.random.key(3), 2, 3)
  np.testing.assert_array_equal(seeds[:2, :3], fewer)
  assert len(set(np.asarray(seeds).ravel().tolist())) == 12
