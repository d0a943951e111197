"""Published kinds of Hugging Face T5 directories, and those that must not pass.

Each is made of a fixture, whose logits are compared with torch's elsewhere: the
tensors stay, and how config.json and files present them changes.
"""

import json
import shutil

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from calm_jax import errors
from calm_jax.checkpoints import (
  from_huggingface,
  load,
  param_trees,
  parity_batch,
  to_huggingface,
)


@pytest.fixture
def untied(hf_tiny, tmp_path):
  return shutil.copytree(hf_tiny / 't5_v1_1_tiny', tmp_path / 'untied')


@pytest.fixture
def tied(hf_tiny, tmp_path):
  return shutil.copytree(hf_tiny / 't5_v1_0_tiny', tmp_path / 'tied')


def change_config(directory, remove=(), **fields):
  path = directory / 'config.json'
  config = json.loads(path.read_text()) | fields
  for name in remove:
    del config[name]
  path.write_text(json.dumps(config))


def change_tensors(directory, change):
  path = directory / 'model.safetensors'
  tensors = safetensors.numpy.load_file(path)
  change(tensors)
  safetensors.numpy.save_file(tensors, path)


def assert_same(found, expected):
  assert found.config == expected.config
  found, expected = map(param_trees.flatten, (found.params, expected.params))
  assert found.keys() == expected.keys()
  for name, array in expected.items():
    np.testing.assert_array_equal(found[name], array)


def shard(directory, number=3):
  path = directory / 'model.safetensors'
  tensors = safetensors.numpy.load_file(path)
  path.unlink()
  weight_map = {}
  for i in range(number):
    name = f'model-{i + 1:05}-of-{number:05}.safetensors'
    part = {x: tensors[x] for x in sorted(tensors)[i::number]}
    safetensors.numpy.save_file(part, directory / name)
    weight_map |= dict.fromkeys(part, name)
  index = directory / 'model.safetensors.index.json'
  index.write_text(json.dumps({'metadata': {}, 'weight_map': weight_map}))
  return index


# --- what differs in the files, but not in the model --------------------------


@pytest.mark.parametrize(
  'fields',
  [
    {'model_type': 'mt5', 'architectures': ['MT5ForConditionalGeneration']},
    {'n_positions': 512, 'output_past': True},  # Flan-T5's extra fields
    {'tie_word_embeddings': True, 'scale_decoder_outputs': False},
    {
      'model_type': 'mt5',
      'tie_word_embeddings': True,
      'transformers_version': '5.1.0',
    },
  ],
  ids=['mt5', 'flan', 't5 of transformers 5', 'mt5 of transformers 5'],
)
def test_kinds_of_t5_1_1(untied, fields):
  expected = from_huggingface.load(untied)
  change_config(untied, **fields)
  assert_same(from_huggingface.load(untied), expected)


def test_an_mt5_that_says_little(untied):
  expected = from_huggingface.load(untied)
  change_config(
    untied, ('feed_forward_proj', 'tie_word_embeddings'), model_type='mt5'
  )
  assert_same(from_huggingface.load(untied), expected)


def test_transformers_5_stores_equal_embeddings_once(untied):
  change_tensors(
    untied, lambda x: x.update({'lm_head.weight': x['shared.weight'].copy()})
  )
  expected = from_huggingface.load(untied)
  change_tensors(untied, lambda x: x.pop('lm_head.weight'))
  with pytest.raises(errors.DataError, match='tie_word_embeddings is false'):
    from_huggingface.load(untied)
  change_config(untied, tie_word_embeddings=True, scale_decoder_outputs=False)
  assert_same(from_huggingface.load(untied), expected)


def test_tied_logits_are_scaled_and_untied_ones_are_not(tied, untied):
  """The same embedding as output embedding, both ways."""
  model = from_huggingface.load(tied)
  config = model.config.replace(logits_via_embedding=False)
  params = {**model.params, 'decoder': dict(model.params['decoder'])}
  kernel = model.params['token_embedder']['embedding'].T
  params['decoder']['logits_dense'] = {'kernel': kernel}
  batch = parity_batch.make_batch(None, model.config.vocab_size)
  scaled = parity_batch.run(model.config, model.params, batch)
  unscaled = parity_batch.run(config, params, batch)
  width = model.config.emb_dim
  assert scaled.predicted == unscaled.predicted
  np.testing.assert_allclose(
    scaled.logits_magnitude * width**0.5, unscaled.logits_magnitude, rtol=1e-5
  )


def test_a_tensor_that_nothing_uses(tied):
  expected = from_huggingface.load(tied)
  name = 'decoder.block.0.layer.1.EncDecAttention.relative_attention_bias'
  unused = {f'{name}.weight': np.zeros((32, 2), np.float32)}
  change_tensors(tied, lambda x: x.update(unused))
  assert_same(from_huggingface.load(tied), expected)


def test_shards(untied):
  expected = from_huggingface.load(untied)
  shard(untied)
  assert_same(load.load_model(untied), expected)


@pytest.mark.parametrize('dtype', [np.float16, ml_dtypes.bfloat16])
def test_half_precision_files(untied, dtype):
  def cast(tensors):
    for name in tensors:
      tensors[name] = tensors[name].astype(dtype)

  expected = from_huggingface.load(untied).params
  change_tensors(untied, cast)
  found = param_trees.flatten(from_huggingface.load(untied).params)
  for name, array in param_trees.flatten(expected).items():
    assert found[name].dtype == np.float32
    np.testing.assert_array_equal(found[name], array.astype(dtype))


def test_the_vocabulary_beside_the_model(untied):
  assert load.load_model(untied).vocabulary_path is None
  (untied / 'spiece.model').write_bytes(b'pieces')
  assert load.load_model(untied).vocabulary_path == untied / 'spiece.model'


# --- refusals -----------------------------------------------------------------


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'model_type': 'bart'}, "model_type must be 't5' or 'mt5', got 'bart'"),
    ({'feed_forward_proj': 'relu'}, "feed_forward_proj must be 'gated-gelu'"),
    ({'feed_forward_proj': 'gated-silu'}, "got 'gated-silu'"),
    ({'vocab_size': 100}, r'\(128, 16\), must be \(100, 16\)'),
    ({'vocab_size': '128'}, "vocab_size must be a positive integer, got '128'"),
    ({'num_layers': 0}, 'num_layers must be a positive integer, got 0'),
    ({'num_decoder_layers': 3}, r'num_decoder_layers = 4 \(the configuration'),
    ({'dropout_rate': 'no'}, 'dropout_rate must be in'),
    ({'pad_token_id': False}, 'pad_token_id must be 0, got False'),
    ({'tie_word_embeddings': True}, 'tie_word_embeddings in config.json'),
    ({'tie_word_embeddings': 1}, 'tie_word_embeddings must be True or False'),
  ],
)
def test_a_wrong_field_is_named(untied, fields, message):
  change_config(untied, **fields)
  with pytest.raises(errors.DataError, match=message):
    from_huggingface.load(untied)


def test_a_gate_where_none_should_be(tied):
  change_config(tied, feed_forward_proj='gated-gelu')
  with pytest.raises(
    errors.DataError, match="feed_forward_proj must be 'relu'"
  ):
    from_huggingface.load(tied)


def test_a_missing_shard_and_one_of_another_model(untied):
  index = shard(untied)
  name = 'model-00002-of-00003.safetensors'
  content = (untied / name).read_bytes()
  (untied / name).unlink()
  with pytest.raises(errors.DataError, match=f'lacks 1 of the shards.*{name}'):
    from_huggingface.load(untied)
  shutil.copy(untied / 'model-00001-of-00003.safetensors', untied / name)
  with pytest.raises(errors.DataError, match='belong to different models'):
    from_huggingface.load(untied)
  (untied / name).write_bytes(content)
  from_huggingface.load(untied)
  index.write_text(index.read_text().replace(name, f'../{name}'))
  with pytest.raises(errors.DataError, match='names of files beside it'):
    from_huggingface.load(untied)


@pytest.mark.parametrize(
  ('name', 'message'),
  [
    ('pytorch_model.bin', 'pickled weights .*save_pretrained'),
    ('tf_model.h5', 'TensorFlow .* take model.safetensors'),
    ('readme.txt', 'download the whole model'),
  ],
)
def test_other_files_of_weights(untied, name, message):
  (untied / 'model.safetensors').rename(untied / name)
  with pytest.raises(errors.DataError, match=message):
    load.load_model(untied)


def test_quantized_weights_are_refused(untied):
  name = 'encoder.block.0.layer.1.DenseReluDense.wo.weight'
  change_tensors(untied, lambda x: x.update({name: x[name].astype(np.int8)}))
  with pytest.raises(errors.DataError, match=f'{name} must be of .*got I8'):
    from_huggingface.load(untied)


# --- sums of whole files ------------------------------------------------------


def flip(path):
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 1
  path.write_bytes(content)


def test_an_export_carries_its_sums(untied, tmp_path):
  model = from_huggingface.load(untied)
  to_huggingface.save(tmp_path / 'out', model.params, model.config)
  from_huggingface.load(tmp_path / 'out')
  flip(tmp_path / 'out' / 'model.safetensors')
  with pytest.raises(errors.DataError, match='its sha256 must be'):
    from_huggingface.load(tmp_path / 'out')


@pytest.mark.parametrize(
  'line',
  [
    'abc  model.safetensors',
    f'{"0" * 64}  ../model.safetensors',
    f'{"0" * 64}  /etc/hostname',
  ],
)
def test_sums_that_cannot_be_read(untied, line):
  (untied / 'SHA256SUMS').write_text(f'{line}\n')
  with pytest.raises(errors.DataError, match='line 1 is'):
    from_huggingface.load(untied)
