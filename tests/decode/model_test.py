"""A model: how its outputs begin and end, its scores, and its gin files."""

import functools

import gin
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from testing import tiny_t5

from calm_jax import errors
from calm_jax.config import gin_setup
from calm_jax.decode import lengths
from calm_jax.decode import model as model_lib
from calm_jax.early_exit.engine import (
  sampling,
  schedule,
  skipped_layers,
  true_states,
)
from calm_jax.early_exit.measures import (
  oracle,
  patience,
  saturation,
  screening,
  softmax,
  static,
  top_k,
)
from calm_jax.t5 import network


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
    generate = functools.partial(tiny_t5.search, model, params, num_beams=2)
  else:
    thresholds = jnp.ones(4)
    generate = functools.partial(
      tiny_t5.generate, model, params, thresholds=thresholds
    )
  sources = np.repeat(tiny_t5.sources(1), 4, axis=0)
  prompts = np.int32([[5, 0, 0], [5, 1, 0], [5, 1, 7], [5, 0, 7]])
  found = generate(tokens=sources, max_decode_length=5, prompts=prompts)
  tokens = np.asarray(found[0] if searches else found.tokens)
  assert (tokens[..., 0] == 5).all()
  for row in range(1, 4):
    np.testing.assert_array_equal(tokens[row], tokens[0])


def test_a_prompt_is_read_by_the_full_model(model_and_params):
  model, params = model_and_params
  sources = tiny_t5.sources(2)
  prompts = np.int32([[5, 6], [7, 0]])
  result = tiny_t5.generate(
    model, params, sources, jnp.zeros(2), max_decode_length=4, prompts=prompts
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


class _EarlyAtFirst:
  """A schedule by which the first two tokens leave at once, later ones late."""

  def __call__(self, threshold, position, max_decode_length):
    del max_decode_length
    return jnp.where(position < 2, threshold, 1.0)


def test_layers_keep_what_the_full_model_makes_of_a_prompt():
  model, params = tiny_t5.tiny_model(
    softmax.SoftmaxTopTwoGap(), threshold_schedule=_EarlyAtFirst()
  )
  sources, prompts = tiny_t5.sources(1), np.int32([[5, 6]])
  early, full = (
    tiny_t5.generate(
      model, params, sources, [x], max_decode_length=3, prompts=prompts
    )
    for x in (0.0, 1.0)
  )
  assert early.num_layers_used.tolist() == [[0, 0, 4]]
  np.testing.assert_array_equal(early.tokens, full.tokens)
  np.testing.assert_allclose(early.log_probs, full.log_probs, rtol=1e-6)
  free = tiny_t5.generate(model, params, sources, [0.0], max_decode_length=3)
  assert free.num_layers_used[0, :2].tolist() == [1, 1]


def test_another_token_may_end_a_row(model_and_params):
  model, params = model_and_params
  sources = tiny_t5.sources(2)
  free = tiny_t5.generate(
    model, params, sources, jnp.ones(2), max_decode_length=6
  )
  eos = int(free.tokens[0, 2])
  result = tiny_t5.generate(
    model, params, sources, jnp.ones(2), max_decode_length=6, eos_id=eos
  )
  row = np.asarray(result.tokens[0])
  end = row.tolist().index(eos)
  assert end <= 2 and (row[end + 1 :] == 0).all()


def test_a_prompt_is_never_cut_by_the_bound_of_the_length():
  model, params = tiny_t5.tiny_model(
    softmax.SoftmaxTopTwoGap(),
    output_length=lengths.ProportionalLength(ratio=0.0, extra=1),
  )
  prompts = np.int32([[5, 6, 7], [0, 0, 0]])
  result = tiny_t5.generate(
    model, params, tiny_t5.sources(2), jnp.ones(2), max_decode_length=6,
    prompts=prompts,
  )  # fmt: skip
  sizes = (np.asarray(result.tokens) > 0).sum(axis=1)
  assert sizes.tolist() == [4, 1]


def test_a_sampler_without_seeds_is_refused(model_and_params):
  model, params = model_and_params
  with pytest.raises(errors.ConfigError, match='needs a seed'):
    tiny_t5.generate(
      model, params, tiny_t5.sources(1), jnp.ones(1), max_decode_length=2,
      decode_fn=sampling.Sampler(),
    )  # fmt: skip


def test_scores_are_the_log_likelihood_of_the_targets(model_and_params):
  model, params = model_and_params
  targets = tiny_t5.sources(3, length=5, seed=1)
  batch = {
    'encoder_input_tokens': tiny_t5.sources(3),
    'decoder_target_tokens': targets,
    'decoder_input_tokens': np.pad(targets[:, :-1], ((0, 0), (1, 0))),
  }
  logits = model.module.apply(
    {'params': params},
    batch['encoder_input_tokens'],
    batch['decoder_input_tokens'],
    batch['decoder_target_tokens'],
    enable_dropout=False,
  )
  log_probs = scipy.special.log_softmax(np.float64(logits), axis=-1)
  picked = np.take_along_axis(log_probs, targets[..., None], axis=-1)[..., 0]
  expected = np.where(targets > 0, picked, 0).sum(axis=-1)
  scores = model.score_batch(params, batch)
  np.testing.assert_allclose(scores, expected, rtol=1e-5)


def test_initial_variables_carry_t5x_axis_names(model_and_params):
  model, params = model_and_params
  row = jnp.ones((1, 4), jnp.int32)
  variables = model.module.init(
    jax.random.key(0), row, row, row, enable_dropout=False
  )
  shapes = jax.tree.map(jnp.shape, params)
  del shapes['exit_classifiers']
  assert jax.tree.map(jnp.shape, variables['params']) == shapes
  axes = variables['params_axes']['decoder']['layers_0']['self_attention']
  assert axes['query']['kernel_axes'].names == ('embed', 'joined_kv')


@pytest.mark.parametrize(
  'name, measure',
  [
    ('softmax', softmax.SoftmaxTopTwoGap()),
    ('softmax_maximum', softmax.SoftmaxMaximum()),
    ('entropy', softmax.SoftmaxEntropy()),
    ('state', saturation.HiddenStateSaturation()),
    ('patience', patience.Patience()),
    ('static', static.StaticExit()),
    ('oracle', oracle.Oracle()),
    ('top_k', top_k.TopKPropagation(k=64)),
  ],
)
def test_gin_files_choose_measure_and_schedule(name, measure):
  model = _model_of([name, 'decaying'], ['THRESHOLD_TEMPERATURE = 2.0'])
  assert model.measure == measure
  assert model.threshold_schedule == schedule.DecayingThreshold(2.0)
  assert _model_of([]).threshold_schedule == schedule.ConstantThreshold()


def test_gin_files_choose_exits_and_skipped_layers():
  model = _model_of(['softmax', 'exits', 't5x_release'], ['MIN_EXIT = 3'])
  assert model.exit_layers == schedule.ExitLayers(min_exit=3)
  assert model.skipped_layers == skipped_layers.FirstExitState()
  model = _model_of(['softmax', 'true_states'])
  assert model.skipped_layers == true_states.TrueStates()
  model = _model_of(['true_states', 'calm_paper'])
  assert model.skipped_layers == skipped_layers.ProjectExitState()
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
    return model_lib.EncoderDecoderModel(
      network.Transformer(config), rows_per_pack=()
    )
  finally:
    gin.clear_config()
