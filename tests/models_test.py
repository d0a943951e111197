"""The facade: T5X's methods, each against another route to its number."""

import gin
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from testing import tiny_t5

from calm_jax import decoding, errors, models
from calm_jax.cli import gin_setup
from calm_jax.early_exit import (
  confidence,
  oracle,
  propagation,
  sampling,
  schedule,
  screening,
  top_k,
)
from calm_jax.t5 import network


@pytest.fixture(scope='module')
def model_and_params():
  return tiny_t5.tiny_model(confidence.SoftmaxTopTwoGap())


def _batch(seed=0):
  targets = tiny_t5.sources(3, length=5, seed=seed + 1)
  return {
    'encoder_input_tokens': tiny_t5.sources(3, seed=seed),
    'decoder_target_tokens': targets,
    'decoder_input_tokens': np.pad(targets[:, :-1], ((0, 0), (1, 0))),
  }


def test_loss_and_score_are_the_same_log_likelihood(model_and_params):
  model, params = model_and_params
  batch = _batch()
  logits = model.module.apply(
    {'params': params},
    batch['encoder_input_tokens'],
    batch['decoder_input_tokens'],
    batch['decoder_target_tokens'],
    enable_dropout=False,
  )
  log_probs = scipy.special.log_softmax(np.float64(logits), axis=-1)
  targets = batch['decoder_target_tokens']
  picked = np.take_along_axis(log_probs, targets[..., None], axis=-1)[..., 0]
  expected = np.where(targets > 0, picked, 0).sum(axis=-1)
  scores = model.score_batch(params, batch)
  np.testing.assert_allclose(scores, expected, rtol=1e-5)
  loss, metrics = model.eval_fn(params, batch)
  np.testing.assert_allclose(
    loss - metrics['z_loss'], -expected.sum(), rtol=1e-5
  )
  assert metrics['weight_sum'] == (targets > 0).sum()


def test_prediction_scores_as_the_teacher_forced_model(model_and_params):
  model, params = model_and_params
  batch = _batch()
  tokens, aux = model.predict_batch_with_aux(
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
  tokens, aux = model.predict_batch_with_aux(params, batch, threshold=0.0)
  assert tokens.shape == batch['decoder_input_tokens'].shape
  assert (np.asarray(aux['exits'][1]) == -1).all()
  assert (np.asarray(aux['confidences'][1]) == -1).all()
  assert set(np.unique(aux['exits'])) == {-1, 1}
  np.testing.assert_array_equal(
    tokens, model.predict_batch(params, batch, threshold=0.0)
  )


def test_dropout_changes_the_training_loss_only():
  model, params = tiny_t5.tiny_model(confidence.SoftmaxTopTwoGap())
  config = model.config.replace(dropout_rate=0.5)
  dropping = models.EncoderDecoderModel(model.module.clone(config=config))
  batch = _batch()
  plain, _ = dropping.eval_fn(params, batch)
  dropped, _ = dropping.loss_fn(params, batch, jax.random.key(0))
  again, _ = dropping.loss_fn(params, batch, jax.random.key(0))
  np.testing.assert_array_equal(plain, model.eval_fn(params, batch)[0])
  np.testing.assert_array_equal(dropped, again)
  assert abs(float(dropped - plain)) > 1e-3


def test_initial_variables_carry_t5x_axis_names(model_and_params):
  model, params = model_and_params
  variables = model.get_initial_variables(
    jax.random.key(0),
    {'encoder_input_tokens': (1, 4), 'decoder_input_tokens': (1, 3)},
  )
  shapes = jax.tree.map(jnp.shape, params)
  del shapes['exit_classifiers']
  assert jax.tree.map(jnp.shape, variables['params']) == shapes
  axes = variables['params_axes']['decoder']['layers_0']['self_attention']
  assert axes['query']['kernel_axes'].names == ('embed', 'joined_kv')


@pytest.mark.parametrize(
  'name, measure',
  [
    ('softmax', confidence.SoftmaxTopTwoGap()),
    ('softmax_maximum', confidence.SoftmaxMaximum()),
    ('entropy', confidence.SoftmaxEntropy()),
    ('state', confidence.HiddenStateSaturation()),
    ('patience', confidence.Patience()),
    ('static', confidence.StaticExit()),
    ('oracle', oracle.Oracle()),
    ('top_k', top_k.TopKPropagation(k=64)),
  ],
)
def test_gin_files_choose_measure_and_schedule(name, measure):
  model = _model_of([name, 'decaying'], ['THRESHOLD_TEMPERATURE = 2.0'])
  assert model.measure == measure
  assert model.threshold_schedule == schedule.DecayingThreshold(2.0)
  assert _model_of([]).threshold_schedule == schedule.ConstantThreshold()


def test_gin_files_choose_exits_and_propagation():
  model = _model_of(['softmax', 'exits', 't5x_release'], ['MIN_EXIT = 3'])
  assert model.exit_layers == schedule.ExitLayers(min_exit=3)
  assert model.propagation == propagation.FirstExitState()
  model = _model_of(['top_k'], ['TOP_K = [32, 8]'])
  assert model.measure == top_k.TopKPropagation(k=(32, 8))
  model = _model_of(
    ['screened'], ['TOP_K = [8]', 'RANK = 32', 'CANDIDATES = 9']
  )
  assert model.measure == screening.ScreenedTopK(8, rank=32, num_candidates=9)


def _model_of(names, bindings=()):
  config = network.T5Config(vocab_size=64)
  try:
    gin_setup.parse([f'gin/early_exit/{x}.gin' for x in names], list(bindings))
    return models.EncoderDecoderModel(network.Transformer(config))
  finally:
    gin.clear_config()


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
    'sampler': sampling.Sampler(temperature=2.0),
  }
  batch, rng = _decode_batch(), jax.random.key(3)
  tokens, aux = model.predict_batch_with_aux(
    params, batch, rng, return_all_decodes=True, **options
  )
  assert tokens.shape == (3, 4, 6) and aux['exits'].shape == (3, 4, 6)
  assert (np.diff(aux['scores'], axis=1) >= 0).all()
  assert len({tuple(x) for x in np.asarray(tokens[0]).tolist()}) > 1
  best, best_aux = model.predict_batch_with_aux(params, batch, rng, **options)
  np.testing.assert_array_equal(best, tokens[:, -1])
  np.testing.assert_array_equal(best_aux['scores'], aux['scores'][:, -1])


def test_several_greedy_decodes_are_refused(model_and_params):
  model, params = model_and_params
  with pytest.raises(errors.ConfigError, match='needs a sampler'):
    model.predict_batch_with_aux(params, _decode_batch(), num_decodes=2)


def test_a_prompt_of_its_own_output_changes_nothing(model_and_params):
  model, params = model_and_params
  batch = _decode_batch()
  free, _ = model.predict_batch_with_aux(params, batch)
  prompt = np.zeros((3, 6), np.int32)
  prompt[:, 1:3] = free[:, :2]  # After the start symbol.
  tokens, aux = model.predict_batch_with_aux(
    params,
    {**batch, 'decoder_input_tokens': prompt},
    prompt_with_targets=True,
  )
  assert (np.asarray(free)[:, :2] > models.EOS_ID).all(), 'choose other sources'
  np.testing.assert_array_equal(tokens, free)
  assert (np.asarray(aux['exits'])[:, :2] == -1).all()


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
    confidence.SoftmaxTopTwoGap(),
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
