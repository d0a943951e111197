"""Imports from T5X and Hugging Face: exact, or refused with the reason."""

import json
import shutil

import msgpack
import numpy as np
import pytest
import safetensors.numpy

from calm_jax import errors
from calm_jax.checkpoints import (
  bundle,
  from_huggingface,
  from_t5x,
  load,
  orbax_io,
  param_trees,
)


@pytest.fixture
def huggingface(hf_tiny, tmp_path):
  return shutil.copytree(hf_tiny / 't5_v1_1_tiny', tmp_path / 'hf')


@pytest.fixture
def config(hf_tiny):
  """The configuration of the T5X fixture too."""
  return from_huggingface.load(hf_tiny / 't5_v1_1_tiny').config


@pytest.fixture
def t5x(t5x_tiny, tmp_path):
  return shutil.copytree(t5x_tiny / 't5_1_1_tiny', tmp_path / 't5x')


def test_t5x_directory_or_its_newest_checkpoint(t5x, config):
  params = from_t5x.load_params(t5x, config)
  again = from_t5x.load_params(t5x / 'checkpoint_0', config)
  downloaded = shutil.copytree(t5x / 'checkpoint_0', t5x.parent / 'base')
  third = from_t5x.load_params(downloaded, config)
  for tree in (again, third):
    for name, array in param_trees.flatten(params).items():
      assert array.dtype == np.float32
      np.testing.assert_array_equal(param_trees.flatten(tree)[name], array)


def test_fault_32_t5x_missing_chunk_is_not_read_as_zeros(t5x, config):
  (t5x / 'checkpoint_0/target.encoder.layers_1.mlp.wo.kernel/0.0').unlink()
  with pytest.raises(errors.DataError, match='layers_1.mlp.wo.kernel is missi'):
    from_t5x.load_params(t5x, config)


def test_t5x_truncated_chunk(t5x, config):
  chunk = t5x / 'checkpoint_0/target.decoder.logits_dense.kernel/0.0'
  chunk.write_bytes(chunk.read_bytes()[:-20])
  with pytest.raises(errors.DataError, match='logits_dense.kernel is missing'):
    from_t5x.load_params(t5x, config)


@pytest.mark.parametrize('length', [0, 100, 20_000])
def test_t5x_truncated_index(t5x, config, length):
  index = t5x / 'checkpoint_0' / 'checkpoint'
  index.write_bytes(index.read_bytes()[:length])
  with pytest.raises(errors.DataError, match=f'truncated \\({length} bytes'):
    from_t5x.load_params(t5x, config)


def test_t5x_index_may_not_lead_out_of_its_directory(t5x, config):
  index = t5x / 'checkpoint_0' / 'checkpoint'
  content = msgpack.unpackb(index.read_bytes(), strict_map_key=False)
  scale = content['optimizer']['target']['encoder']['encoder_norm']['scale']
  shutil.copytree(
    t5x / 'checkpoint_0' / 'target.encoder.encoder_norm.scale',
    t5x / 'elsewhere',
  )
  scale['kvstore']['path'] = str(t5x / 'elsewhere')
  index.write_bytes(msgpack.packb(content))
  with pytest.raises(errors.DataError, match='checkpoint_0/elsewhere'):
    from_t5x.load_params(t5x, config)
  # The folder above, made an array of the right shape.
  shutil.copytree(t5x / 'elsewhere', t5x, dirs_exist_ok=True)
  scale['kvstore']['path'] = f'{t5x}/checkpoint_0/..'
  index.write_bytes(msgpack.packb(content))
  with pytest.raises(errors.DataError, match='must lie next to the index'):
    from_t5x.load_params(t5x, config)


def test_t5x_other_network_lists_all_differences(t5x, config):
  other = config.replace(
    num_decoder_layers=5, vocab_size=130, mlp_activations=('relu',)
  )
  with pytest.raises(errors.DataError) as error:
    from_t5x.load_params(t5x, other)
  message = str(error.value)
  assert 'missing: decoder/layers_4/mlp/wo/kernel' in message
  assert (
    'missing: encoder/layers_0/mlp/wi/kernel (nearest in the file:'
    ' encoder/layers_0/mlp/wi_'
  ) in message
  assert 'not expected: encoder/layers_0/mlp/wi_0/kernel (16, 32)' in message
  assert 'token_embedder/embedding is (128, 16), must be (130, 16)' in message


def test_fault_33_tensorflow_checkpoints_are_named(t5x, config):
  index = t5x / 'checkpoint_0' / 'checkpoint'
  index.write_text('model_checkpoint_path: "model.ckpt-1000000"\n')
  with pytest.raises(errors.DataError, match='Mesh TensorFlow'):
    from_t5x.load_params(t5x, config)


def change_config(directory, **fields):
  path = directory / 'config.json'
  path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@pytest.mark.parametrize(
  ('field', 'value'),
  [
    ('model_type', 'umt5'),
    ('feed_forward_proj', 'gated-silu'),
    ('layer_norm_epsilon', 1e-5),
    ('relative_attention_num_buckets', 64),
    ('pad_token_id', 3),
  ],
)
def test_fault_35_other_architectures_are_refused_by_field(
  huggingface, field, value
):
  change_config(huggingface, **{field: value})
  with pytest.raises(errors.DataError, match=field):
    from_huggingface.load(huggingface)


def test_huggingface_missing_and_extra_tensors(huggingface):
  path = huggingface / 'model.safetensors'
  tensors = safetensors.numpy.load_file(path)
  name = 'decoder.block.2.layer.1.EncDecAttention.k.weight'
  tensors['decoder.block.2.layer.1.EncDecAttention.kk.weight'] = tensors.pop(
    name
  )
  safetensors.numpy.save_file(tensors, path)
  with pytest.raises(errors.DataError) as error:
    from_huggingface.load(huggingface)
  message = str(error.value)
  assert (
    'missing: decoder/layers_2/encoder_decoder_attention/key/kernel' in message
  )
  assert 'not expected: decoder.block.2.layer.1.EncDecAttention.kk' in message


def test_tied_copies_must_equal_the_embedding(hf_tiny, tmp_path):
  directory = shutil.copytree(hf_tiny / 't5_v1_0_tiny', tmp_path / 'tied')
  path = directory / 'model.safetensors'
  tensors = safetensors.numpy.load_file(path)
  expected = from_huggingface.load(directory).params
  tensors['lm_head.weight'] = tensors['shared.weight'].copy()
  safetensors.numpy.save_file(tensors, path)
  found = from_huggingface.load(directory).params
  assert param_trees.flatten(found).keys() == (
    param_trees.flatten(expected).keys()
  )
  tensors['lm_head.weight'][5, 5] += 1
  safetensors.numpy.save_file(tensors, path)
  with pytest.raises(errors.DataError, match='lm_head.weight must equal'):
    from_huggingface.load(directory)


def test_fault_34_pickled_weights_are_never_read(huggingface):
  (huggingface / 'model.safetensors').rename(huggingface / 'pytorch_model.bin')
  with pytest.raises(errors.DataError, match='pickled weights'):
    from_huggingface.load(huggingface)


@pytest.mark.parametrize('length', [0, 5, 1000, 100_000])
def test_fault_36_truncated_safetensors(huggingface, length):
  path = huggingface / 'model.safetensors'
  path.write_bytes(path.read_bytes()[:length])
  with pytest.raises(errors.DataError, match='damaged or truncated'):
    from_huggingface.load(huggingface)


def test_one_door_for_all_kinds(huggingface, t5x, config, tmp_path):
  """The same parameters, whichever kind of files they are stored in."""
  from_hf = load.load_model(huggingface)
  from_native = load.load_model(t5x, config)
  assert from_hf.config == from_native.config == config

  store = orbax_io.CheckpointStore(tmp_path / 'run')
  store.save(12, {'params': from_hf.params, 'step': np.int32(12)})
  store.close()
  from_orbax = load.load_model(tmp_path / 'run', config)
  for name, array in param_trees.flatten(from_hf.params).items():
    restored = param_trees.flatten(from_orbax.params)[name]
    np.testing.assert_array_equal(restored, array)

  vocabulary = tmp_path / 'some.model'
  vocabulary.write_bytes(b'pieces')
  info = bundle.BundleInfo('a_task', {'inputs': 8, 'targets': 8})
  folder = tmp_path / 'bundle'
  bundle.save_bundle(folder, from_hf.params, config, info, vocabulary)
  from_bundle = load.load_model(folder, config)
  assert from_bundle.info == info
  assert from_bundle.vocabulary_path == folder / 'sentencepiece.model'


def test_checkpoints_need_a_configuration_that_fits(huggingface, t5x, config):
  with pytest.raises(errors.ConfigError, match='--gin_file'):
    load.load_model(t5x)
  other = config.replace(mlp_dim=64)
  with pytest.raises(errors.ConfigError, match='another configuration'):
    load.load_model(huggingface, other)
  with pytest.raises(errors.DataError, match=r'must be \(16, 64\)'):
    load.load_model(t5x, other)


def test_no_model_at_all(tmp_path):
  with pytest.raises(errors.DataError, match='was expected at'):
    load.load_model(tmp_path / 'nowhere')
