"""A MODEL_DIR that can, or cannot, be read and written."""

import os

import pytest

from calm_jax.doctor import findings, folders


def look(path):
  (found,) = folders.look(str(path))
  return found


def test_a_folder_with_checkpoints(tmp_path):
  for name in ('checkpoint_5', 'checkpoint_20', 'checkpoint_30.tmp', 'other'):
    (tmp_path / name).mkdir()
  found = look(tmp_path)
  assert found.status == findings.OK
  assert '2 checkpoints, the newest of step 20;' in found.found
  assert len(os.listdir(tmp_path)) == 4, 'the probe is gone'


def test_an_empty_folder(tmp_path):
  assert 'without checkpoints' in look(tmp_path).found


def test_a_folder_that_would_be_made(tmp_path):
  found = look(tmp_path / 'a' / 'b')
  assert found.status == findings.OK and 'can be made' in found.found
  assert not os.listdir(tmp_path)


@pytest.mark.parametrize('function', ['listdir', 'write'])
def test_what_the_system_refuses_is_told(function, tmp_path, monkeypatch):
  """Root may write anywhere, so the refusal is made up."""

  def refuse(*args, **kwargs):
    raise PermissionError(13, 'Permission denied')

  if function == 'listdir':
    monkeypatch.setattr(folders.os, 'listdir', refuse)
  else:
    monkeypatch.setattr(folders.tempfile, 'TemporaryFile', refuse)
  found = look(tmp_path / 'new')
  assert found.status == findings.WRONG and found.fix
  kind = 'read' if function == 'listdir' else 'written'
  assert found.found == f'{tmp_path} cannot be {kind}: Permission denied'


def test_a_file_is_no_folder(tmp_path):
  (tmp_path / 'file').write_text('')
  assert look(tmp_path / 'file').status == findings.WRONG


def test_a_bucket_is_not_tried():
  assert look('gs://bucket/run').status == findings.NOTE
