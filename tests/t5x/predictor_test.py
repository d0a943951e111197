"""T5X's prediction, each number against another route to it."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from testing import tiny_t5

from calm_jax import errors
from calm_jax.decode import beam_search
from calm_jax.decode import request as request_lib
from calm_jax.early_exit.engine import sampling
from calm_jax.early_exit.measures import softmax
from calm_jax.t5x import decoder_params, predictor


@pytest.fixture(scope='module')
def model_and_params():
  return tiny_t5.tiny_model(softmax.SoftmaxTopTwoGap())


@pytest.fixture(scope='module')
def two_layers():
  """A model that compiles in half the time, where layers do not matter."""
  measure = softmax.SoftmaxTopTwoGap()
  return tiny_t5.tiny_model(measure, num_decoder_layers=2)


def _batch(seed=0):
  targets = tiny_t5.sources(3, length=5, seed=seed + 1)
  return {
    'encoder_input_tokens': tiny_t5.sources(3, seed=seed),
    'decoder_target_tokens': targets,
    'decoder_input_tokens': np.pad(targets[:, :-1], ((0, 0), (1, 0))),
  }


def test_prediction_scores_as_the_teacher_forced_model(model_and_params):
  model, params = model_and_params
  batch = _batch()
  tokens, aux = predictor.Predictor(model).predict_batch_with_aux(
    params, batch, threshold=1.0, max_decode_length=6
  )
  is_token = aux['exits'] > 0
  # A generated 0 is a token to its score but padding to the targets.
  rows = np.asarray(((tokens > 0) == is_token).all(axis=-1))
  assert rows.any()
  scored = model.score_batch(
    params,
    {
      'encoder_input_tokens': batch['encoder_input_tokens'],
      'decoder_target_tokens': tokens,
      'decoder_input_tokens': jnp.pad(tokens[:, :-1], ((0, 0), (1, 0))),
    },
  )
  np.testing.assert_allclose(
    aux['scores'][rows], scored[rows], rtol=1e-5, atol=1e-5
  )


def test_prediction_marks_missing_tokens_as_t5x_does(model_and_params):
  model, params = model_and_params
  batch = _batch()
  batch['encoder_input_tokens'][1] = 0
  tokens, aux = predictor.Predictor(model).predict_batch_with_aux(
    params, batch, threshold=0.0
  )
  assert tokens.shape == batch['decoder_input_tokens'].shape
  assert (np.asarray(aux['exits'][1]) == -1).all()
  assert (np.asarray(aux['confidences'][1]) == -1).all()
  assert set(np.unique(aux['exits'])) == {-1, 1}
  np.testing.assert_array_equal(
    tokens,
    predictor.Predictor(model).predict_batch(params, batch, threshold=0.0),
  )


def _decode_batch(rows=3):
  return {
    'encoder_input_tokens': tiny_t5.sources(rows),
    'decoder_input_tokens': np.zeros((rows, 6), np.int32),
  }


def test_several_decodes_come_from_the_worst_to_the_best(model_and_params):
  model, params = model_and_params
  options = {
    'threshold': 0.3,
    'num_decodes': 4,
    'decode_fn': sampling.Sampler(temperature=2.0),
  }
  batch, rng = _decode_batch(), jax.random.key(3)
  tokens, aux = predictor.Predictor(model).predict_batch_with_aux(
    params, batch, rng, return_all_decodes=True, **options
  )
  assert tokens.shape == (3, 4, 6) and aux['exits'].shape == (3, 4, 6)
  assert (np.diff(aux['scores'], axis=1) >= 0).all()
  assert len({tuple(x) for x in np.asarray(tokens[0]).tolist()}) > 1
  best, best_aux = predictor.Predictor(model).predict_batch_with_aux(
    params, batch, rng, **options
  )
  np.testing.assert_array_equal(best, tokens[:, -1])
  np.testing.assert_array_equal(best_aux['scores'], aux['scores'][:, -1])


def test_arguments_have_t5x_names_and_order():
  # Of t5x.model.EncoderDecoderModel.predict_batch_with_aux.
  parameters = inspect.signature(
    predictor.Predictor.predict_batch_with_aux
  ).parameters.values()
  assert [x.name for x in parameters if x.kind != x.KEYWORD_ONLY] == [
    'self', 'params', 'batch', 'rng', 'decoder_params', 'return_all_decodes',
    'num_decodes', 'prompt_with_targets',
  ]  # fmt: skip


def test_more_decodes_keep_the_first_ones(two_layers):
  model, params = two_layers
  sampler = sampling.Sampler(temperature=2.0)

  def drawn(num_decodes):
    tokens, _ = predictor.Predictor(model).predict_batch_with_aux(
      params, _decode_batch(2), jax.random.key(3), None, True, num_decodes,
      decode_fn=sampler,
    )  # fmt: skip
    return [{tuple(x) for x in row} for row in tokens.tolist()]

  two, four = drawn(2), drawn(4)
  assert all(a <= b and len(b) > 2 for a, b in zip(two, four, strict=True))


def test_a_predictor_searches_with_beams_as_its_decode_fn(two_layers):
  model, params = two_layers
  searching = predictor.Predictor(
    model,
    decode_fn=beam_search.BeamSearch(),
    default_decoder_params=decoder_params.DecoderParams(num_decodes=3),
  )
  batch = _decode_batch()
  batch['encoder_input_tokens'][2] = 0
  tokens, aux = searching.predict_batch_with_aux(
    params, batch, None, {'alpha': 0.3, 'max_decode_len': 5}, True
  )
  expected = tiny_t5.search(
    model, params, batch['encoder_input_tokens'], 3, 0.3, max_decode_length=5
  )
  np.testing.assert_array_equal(tokens, expected[0])
  np.testing.assert_array_equal(aux['scores'], expected[1])
  assert set(aux) == {'scores'} and (np.asarray(tokens[2]) == 0).all()
  best, _ = searching.predict_batch_with_aux(
    params, batch, None, {'alpha': 0.3}, max_decode_length=5
  )
  np.testing.assert_array_equal(best, tokens[:, -1])


def test_decoder_params_are_those_of_the_call(two_layers):
  model, params = two_layers
  batch, rng = _decode_batch(), jax.random.key(5)
  given = {'topk': 4, 'temperature': 2.0, 'decode_rng': rng}
  by_params = predictor.Predictor(model).predict_batch(
    params, batch, decoder_params=given
  )
  assert set(given) == {'topk', 'temperature', 'decode_rng'}  # Not changed.
  by_object = predictor.Predictor(model).predict_batch(
    params, batch, rng, decode_fn=sampling.Sampler(2.0, 4)
  )
  np.testing.assert_array_equal(by_params, by_object)
  greedy = predictor.Predictor(model).predict_batch(params, batch)
  assert (np.asarray(by_params) != np.asarray(greedy)).any()
  np.testing.assert_array_equal(
    predictor.Predictor(model).predict_batch(
      params, batch, decoder_params={'topk': 1}
    ),
    greedy,
  )


def test_steps_are_counted_after_the_prompt(two_layers):
  model, params = two_layers
  prompt = np.zeros((3, 6), np.int32)
  prompt[0, 1:3], prompt[1, 1] = [5, 6], 7
  batch = {**_decode_batch(), 'decoder_input_tokens': prompt}
  free = predictor.Predictor(model).predict_batch(
    params, batch, prompt_with_targets=True
  )
  predict = jax.jit(
    lambda steps, eos_id: predictor.Predictor(model).predict_batch_with_aux(
      params,
      batch,
      decoder_params={'max_decode_steps': steps, 'eos_id': eos_id},
      prompt_with_targets=True,
    )
  )
  tokens, aux = predict(2, 1)
  exits = np.asarray(aux['exits'])
  for row, size in enumerate([2, 1, 0]):
    assert (exits[row, size + 2 :] == -1).all()
    np.testing.assert_array_equal(
      tokens[row, : size + 2], free[row, : size + 2]
    )
  # The first free token that the prompt does not hold ends the first row.
  row = free[0].tolist()
  eos_id = next(x for x in row if x not in (5, 6))
  size = row.index(eos_id) + 1
  ended, _ = predict(6, eos_id)
  assert ended[0].tolist() == row[:size] + [0] * (6 - size)


@pytest.mark.parametrize(
  'options, said',
  [
    ({'num_decodes': 2}, 'needs a sampler'),
    ({'num_decodes': 0}, 'at least 1'),
    ({'threshold': float('nan')}, r'in \[0, 1\]'),
    ({'threshold': np.float32([0.5, np.nan, 1])}, r'in \[0, 1\]'),
    ({'threshold': 1.5}, r'in \[0, 1\]'),
    ({'decoder_params': {'beam_size': 2}}, 'among'),
    ({'decoder_params': {'alpha': 0.6}}, 'got alpha'),
    ({'decoder_params': {'temperature': 0.5}}, 'topk too'),
    ({'decoder_params': {'topk': -1}}, 'top_k must be'),
    ({'decoder_params': {'eos_id': 0}}, 'eos_id must be'),
    ({'decoder_params': {'eos_id': 99}}, 'eos_id must be'),
    ({'decoder_params': {'max_decode_steps': 0}}, 'must be positive'),
    (
      {'decoder_params': {'max_decode_len': 3}, 'max_decode_length': 4},
      'not both',
    ),
    (
      {'decoder_params': {'decode_rng': 1}, 'rng': 2},
      'not both',
    ),
    ({'decode_fn': beam_search.BeamSearch(), 'threshold': 0.9}, 'full model'),
    (
      {
        'decode_fn': beam_search.BeamSearch(),
        'decoder_params': {'alpha': -1.0},
      },
      'alpha',
    ),
    (
      {
        'decode_fn': beam_search.BeamSearch(),
        'decoder_params': {'temperature': 1.0},
      },
      'got temperature',
    ),
    (
      {'prompt_with_targets': True, 'max_decode_length': 3},
      'at most as wide',
    ),
  ],
)
def test_impossible_calls_are_refused(options, said, two_layers):
  model, params = two_layers
  with pytest.raises(errors.ConfigError, match=said):
    predictor.Predictor(model).predict_batch_with_aux(
      params, _decode_batch(), **options
    )


def test_a_prompt_of_its_own_output_changes_nothing(model_and_params):
  model, params = model_and_params
  batch = _decode_batch()
  free, _ = predictor.Predictor(model).predict_batch_with_aux(params, batch)
  prompt = np.zeros((3, 6), np.int32)
  prompt[:, 1:3] = free[:, :2]  # After the start symbol.
  tokens, aux = predictor.Predictor(model).predict_batch_with_aux(
    params,
    {**batch, 'decoder_input_tokens': prompt},
    prompt_with_targets=True,
  )
  assert (np.asarray(free)[:, :2] > request_lib.EOS_ID).all(), (
    'choose other sources'
  )
  np.testing.assert_array_equal(tokens, free)
  assert (np.asarray(aux['exits'])[:, :2] == -1).all()
