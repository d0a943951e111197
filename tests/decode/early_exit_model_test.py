"""Generation from token arrays: how outputs begin and where they end."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest
from testing import tiny_t5

from calm_jax import errors
from calm_jax.decode import decoding
from calm_jax.early_exit.engine import sampling
from calm_jax.early_exit.measures import softmax


@pytest.fixture(scope='module')
def model_and_params():
  return tiny_t5.tiny_model(softmax.SoftmaxTopTwoGap())


@pytest.fixture(scope='module')
def two_layers():
  """A model that compiles in half the time, where layers do not matter."""
  measure = softmax.SoftmaxTopTwoGap()
  return tiny_t5.tiny_model(measure, num_decoder_layers=2)


@pytest.mark.parametrize('searches', [False, True])
def test_a_prompt_ends_before_its_first_eos_or_padding(searches, two_layers):
  model, params = two_layers
  if searches:
    generate = functools.partial(model.beam_search, params, num_beams=2)
  else:
    thresholds = jnp.ones(4)
    generate = functools.partial(model.generate, params, thresholds=thresholds)
  sources = np.repeat(tiny_t5.sources(1), 4, axis=0)
  prompts = np.int32([[5, 0, 0], [5, 1, 0], [5, 1, 7], [5, 0, 7]])
  found = generate(
    encoder_input_tokens=sources, max_decode_length=5, prompts=prompts
  )
  tokens = np.asarray(found[0] if searches else found.tokens)
  assert (tokens[..., 0] == 5).all()
  for row in range(1, 4):
    np.testing.assert_array_equal(tokens[row], tokens[0])


def test_a_prompt_is_read_by_the_full_model(model_and_params):
  model, params = model_and_params
  sources = tiny_t5.sources(2)
  prompts = np.int32([[5, 6], [7, 0]])
  result = model.generate(
    params, sources, jnp.zeros(2), max_decode_length=4, prompts=prompts
  )
  used = np.asarray(result.num_layers_used)
  assert used[0, :2].tolist() == [0, 0] and used[1, 0] == 0
  # At threshold 0 the others leave at layer 1.
  assert used[0, 2] == 1 and used[1, 1] == 1
  inputs = np.int32([[0, 5, 6]])
  states = model.module.apply(
    {'params': params},
    model.module.apply({'params': params}, sources[:1], method='encode'),
    sources[:1],
    inputs,
    np.ones_like(inputs),
    method='decode_all_layers',
  )
  logits = model.module.apply(
    {'params': params}, states[0, 0, 2], method='logits_from_hidden'
  )
  assert result.tokens[0, 2] == np.argmax(logits)


def test_another_token_may_end_a_row(model_and_params):
  model, params = model_and_params
  sources = tiny_t5.sources(2)
  free = model.generate(params, sources, jnp.ones(2), max_decode_length=6)
  eos = int(free.tokens[0, 2])
  result = model.generate(
    params, sources, jnp.ones(2), max_decode_length=6, eos_id=eos
  )
  row = np.asarray(result.tokens[0])
  end = row.tolist().index(eos)
  assert end <= 2 and (row[end + 1 :] == 0).all()


def test_a_prompt_is_never_cut_by_the_bound_of_the_length():
  model, params = tiny_t5.tiny_model(
    softmax.SoftmaxTopTwoGap(),
    output_length=decoding.ProportionalLength(ratio=0.0, extra=1),
  )
  prompts = np.int32([[5, 6, 7], [0, 0, 0]])
  result = model.generate(
    params, tiny_t5.sources(2), jnp.ones(2), max_decode_length=6,
    prompts=prompts,
  )  # fmt: skip
  lengths = (np.asarray(result.tokens) > 0).sum(axis=1)
  assert lengths.tolist() == [4, 1]


def test_a_sampler_without_seeds_is_refused(model_and_params):
  model, params = model_and_params
  with pytest.raises(errors.ConfigError, match='needs a seed'):
    model.generate(
      params, tiny_t5.sources(1), jnp.ones(1), max_decode_length=2,
      sampler=sampling.Sampler(),
    )  # fmt: skip
