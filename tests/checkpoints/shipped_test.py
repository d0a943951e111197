"""Models by name: what ships, what is a folder, what is neither."""

import pytest

import calm_jax
from calm_jax import errors
from calm_jax.checkpoints import bundle, shipped


def test_every_name_is_a_model():
  assert 'docstrings' in shipped.names()
  for name in shipped.names():
    assert bundle.is_bundle(shipped.resolve(name))
  assert shipped.resolve('docstrings') == bundle.default_bundle_path()
  assert shipped.resolve(None) is None


def test_a_folder_goes_before_a_name(tmp_path, monkeypatch):
  (tmp_path / 'docstrings').mkdir()
  monkeypatch.chdir(tmp_path)
  assert shipped.resolve('docstrings') == 'docstrings'
  assert shipped.resolve(tmp_path) == tmp_path


def test_an_unknown_name_gives_the_list():
  with pytest.raises(errors.DataError, match="'docstring'.*are: docstrings"):
    calm_jax.load('docstring')


def test_a_path_is_told_as_a_path():
  with pytest.raises(errors.DataError, match='is not a model folder'):
    calm_jax.load('runs/nothing_here')
