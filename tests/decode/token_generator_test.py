"""Token rows through one batch or a queue, and requests that are refused."""

import jax
import numpy as np
import pytest
from testing import plain_python, tiny_t5

from calm_jax import errors
from calm_jax.decode import beam_search, token_generator
from calm_jax.decode import result as result_lib
from calm_jax.early_exit.engine import sampling
from calm_jax.early_exit.measures import softmax

LENGTH = plain_python.LENGTH
COUNT = 11
SOURCES = tiny_t5.sources(COUNT)
THRESHOLDS = np.float32(np.resize([1.0, 0.1, 0.3, 0.5, 0.7], COUNT))


@pytest.fixture(scope='module')
def generator():
  return token_generator.TokenGenerator(
    *tiny_t5.tiny_model(softmax.SoftmaxTopTwoGap()),
    max_decode_length=LENGTH,
  )


@pytest.fixture(scope='module')
def one_row(generator):
  """Shapes and types of one row's result."""
  return jax.eval_shape(
    lambda: generator.model.generate(
      generator.params,
      generator.request(
        SOURCES[:1], THRESHOLDS[:1], trace=True, max_decode_length=5
      ),
    )
  )


def generate(generator, tokens, thresholds, batch_size=None, **asked):
  request = generator.request(tokens, thresholds, **asked)
  return generator.generate_tokens(request, batch_size=batch_size)


def search(generator, tokens, num_beams, **asked):
  thresholds = np.ones((len(tokens), num_beams))
  return generator.generate_tokens(
    generator.request(
      tokens, thresholds, decode_fn=beam_search.BeamSearch(), **asked
    )
  )


def test_a_queue_takes_any_number_of_rows_through_its_slots(generator):
  """With prompts, a trace and several thresholds per source."""
  prompts = np.zeros((COUNT, 3), int)
  prompts[::2, 0] = 5
  # The model is free after an EOS or a 0.
  prompts[2], prompts[4] = (5, 1, 7), (5, 0, 7)
  sources = np.array(SOURCES)
  sources[3] = 0  # Generates nothing.
  rows = (sources, np.stack([THRESHOLDS, THRESHOLDS[::-1]], axis=1))
  options = {'trace': True, 'prompts': prompts}
  whole = generate(generator, *rows, **options)
  for batch_size in (5, 2 * COUNT + 3):
    queued = generate(generator, *rows, **options, batch_size=batch_size)
    for name in ('tokens', 'num_layers_used', 'trace_tokens'):
      np.testing.assert_array_equal(getattr(queued, name), getattr(whole, name))
    np.testing.assert_allclose(
      queued.trace_confidences, whole.trace_confidences, atol=1e-4
    )
  assert (whole.tokens[6:8] == 0).all(), 'two thresholds of the empty source'


def test_thresholds_share_one_compiled_program(generator):
  for threshold in (0.0, 0.3, 1.0):
    generate(generator, SOURCES, np.full(COUNT, threshold, np.float32))
  before = generator._generate._cache_size()
  generate(generator, SOURCES, THRESHOLDS)
  assert generator._generate._cache_size() == before


@pytest.mark.parametrize('batch_size', [None, 4])
@pytest.mark.parametrize('grid', [(), (3,)])
def test_no_rows_give_no_rows(generator, one_row, grid, batch_size):
  tokens, thresholds = SOURCES[:0], np.zeros((0, *grid), np.float32)
  found = generate(
    generator, tokens, thresholds, batch_size, trace=True, max_decode_length=5
  )
  assert isinstance(found, result_lib.DecodeResult)
  for empty, row in zip(
    jax.tree.leaves(found), jax.tree.leaves(one_row), strict=True
  ):
    assert isinstance(empty, np.ndarray)
    assert empty.shape == (0, *row.shape[1:]) and empty.dtype == row.dtype


def test_no_rows_are_searched_and_encoded_too(generator):
  found = search(generator, SOURCES[:0], 3, prompts=np.zeros((0, 2), np.int32))
  assert found.tokens.shape == (0, LENGTH) and found.log_probs.shape == (0,)
  generator.run_encoder(SOURCES[:0])


def test_no_rows_excuse_no_impossible_request(generator):
  nothing = SOURCES[:0], THRESHOLDS[:0]
  with pytest.raises(errors.ConfigError, match='batch_size must be'):
    generate(generator, *nothing, batch_size=0)
  with pytest.raises(errors.ConfigError, match='needs a seed'):
    generate(generator, *nothing, decode_fn=sampling.Sampler())
  with pytest.raises(errors.ConfigError, match='eos_id must be'):
    search(generator, SOURCES[:0], 2, eos_id=0)


@pytest.mark.parametrize('batch_size', [0, -1, 1.5, True])
def test_a_batch_size_that_is_none(generator, batch_size):
  with pytest.raises(errors.ConfigError, match='batch_size must be'):
    generate(generator, SOURCES, THRESHOLDS, batch_size=batch_size)


@pytest.mark.parametrize(
  'thresholds, options',
  [
    (THRESHOLDS[:3], {}),
    (THRESHOLDS[:0], {}),
    (np.float32(0.5), {}),
    (THRESHOLDS, {'prompts': np.ones((2, 1), np.int32)}),
  ],
)
def test_arrays_of_other_numbers_of_rows(generator, thresholds, options):
  with pytest.raises(errors.ConfigError, match='for each source'):
    generate(generator, SOURCES, thresholds, **options)


@pytest.mark.parametrize('num_prompts', [1, COUNT - 1])
@pytest.mark.parametrize('count', [0, COUNT])
def test_a_search_wants_a_prompt_for_each_source(generator, count, num_prompts):
  prompts = np.full((num_prompts, 1), 5, np.int32)
  with pytest.raises(errors.ConfigError, match='for each source'):
    search(generator, SOURCES[:count], 2, prompts=prompts)


def test_plain_batches_are_what_several_devices_decode(generator, monkeypatch):
  """Filled up and put together; data_parallel_test.py has devices."""
  rows = (SOURCES, np.stack([THRESHOLDS, THRESHOLDS[::-1]], axis=1))
  whole = generate(generator, *rows)
  monkeypatch.setattr(generator._division, 'num_devices', 4)
  monkeypatch.setattr(generator, '_continuous_batch', None)
  # Three sources, filled up to one for each device.
  batches = generate(generator, *rows, batch_size=6)
  for name in ('tokens', 'num_layers_used'):
    np.testing.assert_array_equal(getattr(batches, name), getattr(whole, name))
  np.testing.assert_allclose(batches.log_probs, whole.log_probs, atol=1e-4)


def test_a_search_in_batches_is_that_of_one_batch(generator):
  prompts = np.zeros((COUNT, 2), np.int32)
  prompts[::2] = 5
  sources = np.array(SOURCES)
  sources[3] = 0  # Generates nothing.
  request = generator.request(
    sources,
    np.ones((COUNT, 3)),
    prompts=prompts,
    decode_fn=beam_search.BeamSearch(0.2),
  )
  whole = generator.generate_tokens(request)
  expected = tiny_t5.search(
    generator.model, generator.params, sources, 3, 0.2,
    prompts=prompts, max_decode_length=LENGTH,
  )  # fmt: skip
  np.testing.assert_array_equal(
    whole.tokens.reshape(COUNT, 3, LENGTH), expected[0]
  )
  batches = generator.generate_tokens(request, batch_size=7)
  np.testing.assert_array_equal(batches.tokens, whole.tokens)
  np.testing.assert_allclose(batches.log_probs, whole.log_probs, atol=1e-4)
  # All layers from the prompt to the end, of the beams that hold a sequence.
  for i, tokens in enumerate(whole.tokens.tolist()):
    size = (*tokens, 1).index(1) + 1
    layers = np.where(np.arange(LENGTH) < size, 4, 0)
    layers[: (prompts[i // 3] > 0).sum()] = 0
    if i // 3 == 3 or np.isneginf(whole.log_probs[i]):
      layers[:] = 0
    assert whole.num_layers_used[i].tolist() == layers.tolist()
  is_used = whole.num_layers_used > 0
  np.testing.assert_array_equal(np.isnan(whole.confidences), is_used)


def test_a_model_that_computes_nan_is_refused(generator, monkeypatch):
  damaged = jax.tree.map(lambda x: x * np.nan, generator.params)
  monkeypatch.setattr(generator, 'params', damaged)
  with pytest.raises(errors.NumericError, match='not finite'):
    generate(generator, SOURCES, THRESHOLDS)
