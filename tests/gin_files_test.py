"""Every model and experiment that ships, loaded and counted at full size."""

import functools
import math
from typing import NamedTuple

import gin
import jax
import jax.numpy as jnp
import pytest

from calm_jax import errors
from calm_jax.checkpoints import param_trees
from calm_jax.config import gin_setup


class Sizes(NamedTuple):
  """What a T5X gin file says."""

  emb: int
  heads: int
  head_dim: int
  encoder: int
  decoder: int
  mlp: int
  vocab: int = 32128
  wi: int = 2  # input matrices of the feed-forward block: gated in T5 1.1
  tables: int = 2  # input and output embedding; one in T5 1.0
  buckets: int = 32  # of distances, each with a bias per head


def t5_1_0(*sizes):
  return Sizes(*sizes, wi=1, tables=1)


# Sizes as in google-research/t5x, t5x/examples/t5; exact counts.
MODELS = {
  't5_1_0_tiny': (t5_1_0(8, 4, 3, 2, 2, 16), 260_704),
  't5_1_0_small': (t5_1_0(512, 8, 64, 6, 6, 2048), 60_506_624),
  't5_1_0_base': (t5_1_0(768, 12, 64, 12, 12, 3072), 222_903_552),
  't5_1_0_large': (t5_1_0(1024, 16, 64, 24, 24, 4096), 737_668_096),
  't5_1_0_xl': (t5_1_0(1024, 32, 128, 24, 24, 16384), 2_851_598_336),
  't5_1_0_xxl': (t5_1_0(1024, 128, 128, 24, 24, 65536), 11_307_321_344),
  't5_1_1_tiny': (Sizes(16, 2, 8, 1, 3, 32, vocab=4096), 144_720),
  't5_1_1_docstrings': (
    Sizes(256, 4, 64, 3, 8, 512, vocab=4096),
    11_411_712,
  ),
  't5_1_1_small': (Sizes(512, 6, 64, 8, 8, 1024), 76_961_152),
  't5_1_1_base': (Sizes(768, 12, 64, 12, 12, 2048), 247_577_856),
  't5_1_1_large': (Sizes(1024, 16, 64, 24, 24, 2816), 783_150_080),
  't5_1_1_xl': (Sizes(2048, 32, 64, 24, 24, 5120), 2_849_757_184),
  't5_1_1_xxl': (Sizes(4096, 64, 64, 24, 24, 10240), 11_135_332_352),
}
# They leave VOCAB_SIZE open.
UNFINISHED = {'t5_1_0', 't5_1_1'}
# Raffel et al. 2020, Sec. 3.7, for T5 1.0; T5's list of checkpoints for 1.1.
PUBLISHED = {
  't5_1_0_small': 60e6,
  't5_1_0_base': 220e6,
  't5_1_0_large': 770e6,
  't5_1_0_xl': 3e9,
  't5_1_0_xxl': 11e9,
  't5_1_1_small': 77e6,
  't5_1_1_base': 250e6,
  't5_1_1_large': 780e6,
  't5_1_1_xl': 3e9,
  't5_1_1_xxl': 11e9,
}

TIED_DOCSTRINGS = MODELS['t5_1_1_docstrings'][0]._replace(tables=1)
SMALL = MODELS['t5_1_1_small'][0]
BASE = MODELS['t5_1_1_base'][0]
EXPERIMENTS = {
  'tiny': MODELS['t5_1_1_tiny'][0],
  'docstrings': TIED_DOCSTRINGS,
  'docstrings_classifiers': TIED_DOCSTRINGS,
  'docstrings_mixture': TIED_DOCSTRINGS,
  'docstrings_repeats': TIED_DOCSTRINGS._replace(buckets=128),
  'docstring_summarization': TIED_DOCSTRINGS,
  'cnn_dm_small': SMALL,
  'cnn_dm_base': BASE,
  'wmt15_en_fr_small': SMALL,
  'wmt15_en_fr_base': BASE,
  'squad_small': SMALL,
  'squad_base': BASE,
}
# They run on a finished model: gin_setup_test.
STUDIES = {'docstrings_measures'}


@pytest.fixture(autouse=True)
def forget_bindings():
  yield
  gin.clear_config()


def names(folder):
  return {path.stem for path in (gin_setup.gin_root() / folder).glob('*.gin')}


def model_of(files, bindings=()):
  gin_setup.parse(files, bindings)
  return gin_setup.macro('MODEL')


@functools.cache  # Experiments share models, and the largest take seconds.
def num_params(config):
  shapes = param_trees.expected_shapes(config)
  return sum(math.prod(shape) for shape in shapes.values())


def num_params_by_formula(x):
  """Counted by hand: matrices and norms, biases of distance buckets."""
  attention = 4 * x.emb * x.heads * x.head_dim
  mlp = (x.wi + 1) * x.emb * x.mlp
  encoder_layer = attention + mlp + 2 * x.emb
  decoder_layer = 2 * attention + mlp + 3 * x.emb
  return (
    x.tables * x.vocab * x.emb
    + x.encoder * encoder_layer
    + x.decoder * decoder_layer
    + 2 * (x.buckets * x.heads + x.emb)
  )


def test_every_file_is_known_here():
  assert names('gin/models') == MODELS.keys() | UNFINISHED
  assert names('gin/experiments') == EXPERIMENTS.keys() | STUDIES


@pytest.mark.parametrize('name', sorted(UNFINISHED))
def test_the_vocabulary_must_be_given(name):
  with pytest.raises(errors.ConfigError, match='required for VOCAB_SIZE'):
    model_of([f'gin/models/{name}.gin'])


@pytest.mark.parametrize('name', MODELS)
def test_parameters_of_a_model(name):
  sizes, exact = MODELS[name]
  config = model_of([f'gin/models/{name}.gin']).config
  assert num_params(config) == num_params_by_formula(sizes) == exact
  assert config.head_dim == sizes.head_dim


@pytest.mark.parametrize('name', PUBLISHED)
def test_counts_are_the_published_ones(name):
  # As round as they are published: 2.85 billion are called 3B.
  assert MODELS[name][1] == pytest.approx(PUBLISHED[name], rel=0.055)


@pytest.mark.parametrize('name', EXPERIMENTS)
def test_parameters_of_an_experiment(name):
  config = model_of([f'gin/experiments/{name}.gin']).config
  assert num_params(config) == num_params_by_formula(EXPERIMENTS[name])


SMALLER = [
  f'calm_jax.t5.network.T5Config.{field} = {value}'
  for field, value in {
    'emb_dim': 8,
    'num_heads': 2,
    'head_dim': 4,
    'num_encoder_layers': 1,
    'num_decoder_layers': 2,
    'mlp_dim': 16,
  }.items()
] + ['VOCAB_SIZE = 32']


@pytest.mark.parametrize(
  'files',
  [
    ['gin/experiments/cnn_dm_small.gin', 'gin/early_exit/decaying.gin'],
    ['gin/experiments/squad_base.gin', 'gin/early_exit/state.gin'],
  ],
  ids=['cnn_dm_small', 'squad_base'],
)
def test_an_experiment_decodes_what_its_network_scores_highest(files):
  model = model_of(files, SMALLER)
  source = jnp.array([[5, 9, 1, 0], [7, 3, 11, 1]])
  init = jax.jit(
    lambda key: model.module.init(
      key, source, source, source, enable_dropout=False
    )
  )
  params = init(jax.random.key(0))['params']
  request = model.request(source, max_decode_length=2)
  full = model.generate(params, request).tokens
  assert full.shape == (2, 2)
  # The second route: the whole sequence at once.
  shifted = jnp.pad(full[:, :1], ((0, 0), (1, 0)))
  logits = model.module.apply(
    {'params': params}, source, shifted, full, enable_dropout=False
  )
  assert jnp.array_equal(jnp.argmax(logits, axis=-1), full)
