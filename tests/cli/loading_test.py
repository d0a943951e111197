"""Parameters of all kinds reach the stages through gin's MODEL."""

import types

import numpy as np
import pytest

from calm_jax import errors
from calm_jax.checkpoints import load, param_trees
from calm_jax.cli import loading
from calm_jax.config import gin_setup
from calm_jax.data import vocabulary
from calm_jax.t5 import network

SIZES = {
  'vocab_size': 128,
  'emb_dim': 16,
  'num_heads': 2,
  'head_dim': 8,
  'num_encoder_layers': 3,
  'num_decoder_layers': 4,
  'mlp_dim': 32,
}


@pytest.fixture
def folders(hf_tiny, t5x_tiny):
  return {
    'huggingface': hf_tiny / 't5_v1_1_tiny',
    't5x': t5x_tiny / 't5_1_1_tiny',
  }


@pytest.fixture
def load_from_gin(monkeypatch):
  """Loads a folder as the parameters of a gin file's model."""
  tokenizer = types.SimpleNamespace(vocab_size=128, path='pieces')
  monkeypatch.setattr(vocabulary, 'default_tokenizer', lambda: tokenizer)

  def load_from_gin(folder, **sizes):
    bindings = [
      f'network.T5Config.{name} = {size}'
      for name, size in {**SIZES, **sizes}.items()
    ]
    gin_setup.parse(['gin/models/t5_1_1.gin'], bindings)
    chosen = types.SimpleNamespace(model=str(folder), gin_macros={'MODEL': 1})
    return loading.load(chosen)

  return load_from_gin


@pytest.mark.parametrize('kind', ['huggingface', 't5x'])
def test_parameters_of_other_libraries(kind, folders, load_from_gin):
  generator = load_from_gin(folders[kind]).generator
  config = network.T5Config(**SIZES)
  expected = param_trees.flatten(load.load_model(folders[kind], config).params)
  assert expected
  got = param_trees.flatten(generator.params)
  for name, array in expected.items():
    np.testing.assert_array_equal(got[name], array)


@pytest.mark.parametrize('kind', ['huggingface', 't5x'])
def test_another_size_is_refused(kind, folders, load_from_gin):
  with pytest.raises(
    (errors.ConfigError, errors.DataError), match='mlp_dim|wi'
  ):
    load_from_gin(folders[kind], mlp_dim=64)
