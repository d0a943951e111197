"""Bundles: what is written is read back, and nothing else is taken for it."""

import hashlib
import json

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from calm_jax import errors
from calm_jax.checkpoints import (
  bundle,
  digests,
  finer_positions,
  from_huggingface,
  load,
  param_trees,
)
from calm_jax.t5 import network

INFO = bundle.BundleInfo(
  task='docstring_restoration',
  feature_lengths={'inputs': 64, 'targets': 32},
  training={'steps': '10', 'hardware': 'a machine'},
  output_length={'ratio': 1.5, 'extra': 4.0},
)


@pytest.fixture
def tiny(hf_tiny):
  return from_huggingface.load(hf_tiny / 't5_v1_1_tiny')


@pytest.fixture
def vocabulary(tmp_path):
  path = tmp_path / 'some.model'
  path.write_bytes(b'pieces')
  return path


@pytest.fixture
def saved(tiny, vocabulary, tmp_path):
  directory = tmp_path / 'models' / 'tiny'
  bundle.save_bundle(directory, tiny.params, tiny.config, INFO, vocabulary)
  return directory


def test_is_read_back_rounded_to_float16(saved, tiny):
  loaded = bundle.load_bundle(saved)
  assert loaded.config == tiny.config
  assert repr(loaded.config) == repr(tiny.config)
  assert loaded.info == INFO
  assert loaded.vocabulary_path.read_bytes() == b'pieces'
  before, after = map(param_trees.flatten, (tiny.params, loaded.params))
  assert list(sorted(before)) == list(sorted(after))
  for name, array in after.items():
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array, before[name].astype(np.float16))
    np.testing.assert_allclose(array, before[name], rtol=2**-11, atol=2**-24)


def test_more_position_buckets_are_kept(tiny, vocabulary, tmp_path):
  params, config = finer_positions.finer_positions(
    tiny.params, tiny.config, 64, 96
  )
  bundle.save_bundle(tmp_path / 'b', params, config, INFO, vocabulary)
  loaded = bundle.load_bundle(tmp_path / 'b')
  assert loaded.config.relative_attention_num_buckets == 64
  assert loaded.config.relative_attention_max_distance == 96


def test_a_folder_from_before_position_buckets_has_t5_s(saved):
  path = saved / bundle.CONFIG_FILE
  fields = json.loads(path.read_text())
  del fields['network']['relative_attention_num_buckets']
  del fields['network']['relative_attention_max_distance']
  del fields['record_sha256']
  path.write_text(json.dumps(fields))
  config = bundle.load_bundle(saved).config
  assert config.relative_attention_num_buckets == 32
  assert config.relative_attention_max_distance == 128


def test_exit_classifiers_are_kept_beside_the_network(
  tiny, vocabulary, tmp_path
):
  kernel = np.float32([[0.5], [-2.0]])
  params = {**tiny.params, 'exit_classifiers': {'linear': {'kernel': kernel}}}
  bundle.save_bundle(tmp_path / 'b', params, tiny.config, INFO, vocabulary)
  loaded = bundle.load_bundle(tmp_path / 'b').params
  np.testing.assert_array_equal(
    loaded['exit_classifiers']['linear']['kernel'], kernel
  )


def test_classifiers_of_the_model_before_are_taken_away(
  tiny, vocabulary, saved
):
  kernel = np.float32([[0.5]])
  params = {**tiny.params, 'exit_classifiers': {'linear': {'kernel': kernel}}}
  bundle.save_bundle(saved, params, tiny.config, INFO, vocabulary)
  assert (saved / bundle.CLASSIFIERS_FILE).is_file()
  bundle.save_bundle(saved, tiny.params, tiny.config, INFO, vocabulary)
  assert not (saved / bundle.CLASSIFIERS_FILE).exists()
  assert 'exit_classifiers' not in bundle.load_bundle(saved).params


def test_a_file_of_classifiers_replaces_no_array_of_the_network(saved):
  """Whoever writes a folder by hand makes the digests fit, too."""
  name = 'encoder/encoder_norm/scale'
  content = safetensors.numpy.save({name: np.zeros(16, np.float16)})
  (saved / bundle.CLASSIFIERS_FILE).write_bytes(content)
  path = saved / bundle.CONFIG_FILE
  fields = json.loads(path.read_text())
  fields['classifiers_sha256'] = hashlib.sha256(content).hexdigest()
  del fields['record_sha256']
  path.write_text(json.dumps(fields))
  with pytest.raises(errors.DataError, match=f'alone.*but has {name}'):
    bundle.load_bundle(saved)


def test_saving_what_was_loaded_changes_no_byte(saved, tmp_path):
  loaded = bundle.load_bundle(saved)
  again = tmp_path / 'again'
  bundle.save_bundle(
    again, loaded.params, loaded.config, loaded.info, loaded.vocabulary_path
  )
  for file in saved.iterdir():
    assert (again / file.name).read_bytes() == file.read_bytes()
  # In place too, where the vocabulary is read from the file it goes to.
  bundle.save_bundle(
    again,
    loaded.params,
    loaded.config.replace(dtype=jnp.bfloat16),
    loaded.info,
    again / bundle.VOCABULARY_FILE,
  )
  assert bundle.load_bundle(again).config.dtype == jnp.bfloat16
  assert sorted(file.name for file in again.iterdir()) == [
    'config.json',
    'params.safetensors',
    'sentencepiece.model',
  ]


def test_the_digest_sees_every_name_and_value(tiny, saved):
  params = tiny.params
  digest = digests.model_digest(params)
  assert len(digest) == 64
  on_device = param_trees.unflatten(
    {k: jnp.asarray(v) for k, v in param_trees.flatten(params).items()}
  )
  assert digests.model_digest(on_device) == digest
  assert digests.model_digest(bundle.load_bundle(saved).params) != digest
  renamed = {'other' if k == 'encoder' else k: v for k, v in params.items()}
  assert digests.model_digest(renamed) != digest


@pytest.mark.parametrize('name', [bundle.PARAMS_FILE, bundle.VOCABULARY_FILE])
@pytest.mark.parametrize('damage', ['flip', 'truncate'])
def test_damage_is_noticed(saved, name, damage):
  content = bytearray((saved / name).read_bytes())
  if damage == 'flip':
    content[-1] ^= 1
  else:
    del content[-1:]
  (saved / name).write_bytes(content)
  with pytest.raises(errors.DataError, match=f'{name} is damaged'):
    bundle.load_bundle(saved)


@pytest.mark.parametrize(
  'name', [bundle.PARAMS_FILE, bundle.VOCABULARY_FILE, bundle.CONFIG_FILE]
)
def test_a_missing_file_is_named(saved, name):
  (saved / name).unlink()
  with pytest.raises(errors.DataError, match=name):
    bundle.load_bundle(saved)
  if name == bundle.VOCABULARY_FILE:
    with pytest.raises(errors.DataError, match='model folder: it needs'):
      load.load_model(saved)


def test_parameters_of_another_size_are_refused(tiny, vocabulary, tmp_path):
  config = tiny.config.replace(mlp_dim=33)
  with pytest.raises(errors.DataError, match=r'\(16, 32\).*\(16, 33\)'):
    bundle.save_bundle(tmp_path / 'b', tiny.params, config, INFO, vocabulary)
  assert not (tmp_path / 'b').exists()


@pytest.mark.parametrize('value', [np.nan, np.inf, 1e6])
def test_values_that_float16_cannot_hold_are_refused(
  tiny, vocabulary, tmp_path, value
):
  tiny.params['encoder']['encoder_norm']['scale'][3] = value
  with pytest.raises(errors.NumericError, match='encoder_norm/scale'):
    bundle.save_bundle(
      tmp_path / 'b', tiny.params, tiny.config, INFO, vocabulary
    )
  assert not (tmp_path / 'b').exists()


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'schema_version': 99}, 'schema version 99'),
    ({'task': 3}, 'task must be str'),
    ({'extra': 1}, 'extra'),
    ({'feature_lengths': {'inputs': 64}}, 'feature_lengths'),
  ],
)
def test_another_format_is_refused(saved, change, message):
  path = saved / bundle.CONFIG_FILE
  fields = json.loads(path.read_text()) | change
  del fields['record_sha256']  # Would give the change away.
  path.write_text(json.dumps(fields))
  with pytest.raises(errors.DataError, match=message):
    bundle.load_bundle(saved)


def test_all_fields_of_the_configuration_are_kept(tiny, vocabulary, tmp_path):
  """A field added to T5Config must be added to the file's record too."""
  config = network.T5Config(
    **{
      field: getattr(tiny.config, field)
      for field in network.T5Config.__dataclass_fields__
    }
    | {
      'dropout_rate': 0.25,
      'float32_attention_logits': True,
      'relative_attention_max_distance': 99,
    }
  )
  bundle.save_bundle(tmp_path / 'b', tiny.params, config, INFO, vocabulary)
  assert bundle.load_bundle(tmp_path / 'b').config == config
