"""Models in a bucket; a local folder stands for it."""

import shutil

import numpy as np
import pytest
from etils import epath

from calm_jax import errors
from calm_jax.checkpoints import (
  from_huggingface,
  from_t5x,
  load,
  orbax_io,
  param_trees,
  remote,
)


@pytest.fixture
def bucket(tmp_path, monkeypatch):
  """gs://bucket/x is tmp_path/bucket/x."""
  folder = tmp_path / 'bucket'
  folder.mkdir()

  def path(url):
    assert url.startswith('gs://bucket')
    return epath.Path(f'{folder}{url.removeprefix("gs://bucket")}')

  monkeypatch.setattr(remote, '_path', path)
  remote._copied.cache_clear()
  yield folder
  remote._copied.cache_clear()


def assert_same(found, expected):
  for name, array in param_trees.flatten(expected).items():
    np.testing.assert_array_equal(param_trees.flatten(found)[name], array)


def test_parameters_of_the_newest_checkpoint(bucket, t5x_tiny, hf_tiny):
  run = shutil.copytree(t5x_tiny / 't5_1_1_tiny', bucket / 'run')
  (run / 'checkpoint_0').rename(run / 'checkpoint_10')
  (run / 'checkpoint_9').mkdir()
  config = from_huggingface.load(hf_tiny / 't5_v1_1_tiny').config
  found = load.load_model('gs://bucket/run/', config)
  assert_same(found.params, from_t5x.load_params(run, config))
  copy = remote.local('gs://bucket/run')
  assert copy.name == 'checkpoint_10'
  assert not list(copy.glob('state.*'))
  whole = remote.local('gs://bucket/run/checkpoint_10', with_state=True)
  assert len(list(whole.glob('state.*'))) == 89


def test_a_hugging_face_folder(bucket, hf_tiny):
  folder = shutil.copytree(hf_tiny / 't5_v1_0_tiny', bucket / 'hf')
  (folder / 'pytorch_model.bin').write_bytes(b'never copied')
  assert_same(
    load.load_model('gs://bucket/hf').params,
    from_huggingface.load(folder).params,
  )
  names = [path.name for path in remote.local('gs://bucket/hf').iterdir()]
  assert sorted(names) == ['config.json', 'model.safetensors']


def test_fault_53_nothing_there_and_no_permission(bucket, monkeypatch):
  with pytest.raises(errors.DataError, match='nothing at gs://bucket/none'):
    remote.local('gs://bucket/none')

  def refuse(url):
    raise RuntimeError('403: no storage.objects.list\nand much more')

  monkeypatch.setattr(remote, '_path', refuse)
  with pytest.raises(errors.ResourceError, match='403: .*list.. This machine'):
    remote.local('gs://bucket/some')


def test_a_local_path_stays(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  assert remote.local('a//b/') == tmp_path / 'a' / 'b'
  assert not remote.is_remote('~/model') and remote.is_remote('gs://b/x')


def test_training_does_not_write_to_a_bucket(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(errors.ConfigError, match='rsync'):
    orbax_io.CheckpointStore('gs://bucket/run')
  assert not list(tmp_path.iterdir())
