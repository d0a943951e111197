"""Export to Hugging Face's layout: bit by bit what was imported."""

import json

import numpy as np
import pytest
import safetensors.numpy
from testing import tiny_t5

from calm_jax import errors
from calm_jax.checkpoints import (
  from_huggingface,
  load,
  param_trees,
  to_huggingface,
)
from calm_jax.cli import main

NAMES = ('t5_v1_0_tiny', 't5_v1_1_tiny')
FILES = ['SHA256SUMS', 'config.json', 'model.safetensors']


@pytest.mark.parametrize('name', NAMES)
def test_what_was_imported_goes_out_bit_by_bit(hf_tiny, tmp_path, name):
  model = from_huggingface.load(hf_tiny / name)
  to_huggingface.save(tmp_path, model.params, model.config)
  written = (tmp_path / 'model.safetensors').read_bytes()
  assert written == (hf_tiny / name / 'model.safetensors').read_bytes()
  fields = json.loads((tmp_path / 'config.json').read_text())
  expected = json.loads((hf_tiny / name / 'config.json').read_text())
  # T5 1.0 leaves out what is so by default.
  expected.setdefault('tie_word_embeddings', True)
  del expected['transformers_version']
  assert fields == expected
  assert sorted(x.name for x in tmp_path.iterdir()) == FILES


@pytest.mark.parametrize(
  ('gated', 'tied'),
  [(False, True), (True, False), (False, False), (True, True)],
)
def test_ours_comes_back_with_its_exit_classifiers(tmp_path, gated, tied):
  activations = ('gelu', 'linear') if gated else ('relu',)
  config = tiny_t5.tiny_config(tied=tied).replace(mlp_activations=activations)
  params = tiny_t5.tiny_params(config)
  to_huggingface.save(tmp_path, params, config)
  loaded = load.load_model(tmp_path, config)
  assert loaded.config == config
  expected = param_trees.flatten(params)
  found = param_trees.flatten(loaded.params)
  assert found.keys() == expected.keys()
  assert any(name.startswith('exit_classifiers/') for name in found)
  for name, array in expected.items():
    np.testing.assert_array_equal(found[name], array)


def test_files_of_the_model_before_are_taken_away(tmp_path):
  config = tiny_t5.tiny_config(tied=True)
  params = dict(tiny_t5.tiny_params(config))
  vocabulary = tmp_path / 'some.model'
  vocabulary.write_bytes(b'pieces')
  folder = tmp_path / 'model'
  to_huggingface.save(folder, params, config, vocabulary)
  # In place, where the vocabulary is read from the file it goes to.
  to_huggingface.save(folder, params, config, folder / 'spiece.model')
  assert load.load_model(folder).vocabulary_path.read_bytes() == b'pieces'
  del params['exit_classifiers']
  to_huggingface.save(folder, params, config)
  assert sorted(x.name for x in folder.iterdir()) == FILES


def test_a_file_of_classifiers_holds_nothing_else(tmp_path):
  config = tiny_t5.tiny_config(tied=True)
  to_huggingface.save(tmp_path, tiny_t5.tiny_params(config), config)
  path = tmp_path / 'exit_classifiers.safetensors'
  tensors = safetensors.numpy.load_file(path)
  half = {name: array.astype(np.float16) for name, array in tensors.items()}
  (tmp_path / 'SHA256SUMS').unlink()
  safetensors.numpy.save_file(half, path)
  found = param_trees.flatten(load.load_model(tmp_path).params)
  assert {array.dtype for array in found.values()} == {np.dtype(np.float32)}
  scale = 'decoder/decoder_norm/scale'
  safetensors.numpy.save_file({**half, scale: np.zeros(16)}, path)
  with pytest.raises(errors.DataError, match=f'alone.*but has {scale}'):
    load.load_model(tmp_path)


def test_other_feed_forward_blocks_have_no_place(tmp_path):
  config = tiny_t5.tiny_config(tied=True).replace(mlp_activations=('swish',))
  with pytest.raises(errors.ConfigError, match=r"got \('swish',\)"):
    to_huggingface.save(tmp_path / 'model', {}, config)
  assert not (tmp_path / 'model').exists()


def test_parameters_of_another_network_are_refused(tmp_path):
  config = tiny_t5.tiny_config(tied=True)
  other = config.replace(mlp_dim=48)
  with pytest.raises(errors.DataError, match=r'must be \(16, 48\)'):
    to_huggingface.save(tmp_path, tiny_t5.tiny_params(config), other)


def test_the_shipped_model_by_command(tmp_path, capsys):
  args = ['export', '--format=huggingface', f'--output_dir={tmp_path}']
  assert main.main(args) == 0
  assert f'Written: {tmp_path}' in capsys.readouterr().out
  shipped = load.load_model()
  exported = load.load_model(tmp_path)
  assert exported.config == shipped.config
  found = param_trees.flatten(exported.params)
  for name, array in param_trees.flatten(shipped.params).items():
    np.testing.assert_array_equal(found[name], array)
  assert (tmp_path / 'spiece.model').read_bytes() == (
    shipped.vocabulary_path.read_bytes()
  )


def test_an_unknown_format_is_named(tmp_path, capsys):
  args = ['export', '--format=hugingface', f'--output_dir={tmp_path}']
  assert main.main(args) == 2
  assert "Did you mean 'huggingface'?" in capsys.readouterr().err
