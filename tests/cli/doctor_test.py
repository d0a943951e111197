"""`calm doctor`: what is printed, and its exit code."""

import json
import types

import pytest

from calm_jax import errors
from calm_jax.cli import doctor, main, native_logs
from calm_jax.data import calm_tasks
from calm_jax.decode import generation
from calm_jax.doctor import findings, looks

GOOD = findings.Finding('a topic', findings.OK, 'is fine')


@pytest.fixture
def healthy(monkeypatch):
  """No model is loaded and no TensorFlow imported; versions are looked at."""
  for name in ('at_model', 'at_data_sets', 'at_devices'):
    monkeypatch.setattr(looks, name, lambda *args: iter([GOOD]))
  monkeypatch.setattr(native_logs, 'import_tensorflow', lambda: None)


def test_lines_for_people(healthy, tmp_path, capsys):
  assert main.main(['doctor', f'--model_dir={tmp_path}']) == 0
  printed = capsys.readouterr().out
  assert '  ok   a topic                 is fine\n' in printed
  assert f'  ok   MODEL_DIR               {tmp_path} is writable; ' in printed
  assert '  ok   jax                     ' in printed
  assert printed.endswith('\nNothing is wrong.\n')


def test_json_for_machines(healthy, capsys):
  assert main.main(['doctor', '--json']) == 0
  printed = json.loads(capsys.readouterr().out)
  assert printed['ok'] is True
  assert GOOD.to_json() in printed['findings']
  assert {x['status'] for x in printed['findings']} <= {'ok', 'note'}


def test_what_is_wrong_is_exit_code_4(healthy, tmp_path, capsys):
  (tmp_path / 'file').write_text('')
  path = tmp_path / 'file'
  flag = f'--model_dir={path}'
  assert main.main(['doctor', flag]) == 4
  lines = capsys.readouterr().out.splitlines()
  assert (
    f'WRONG  MODEL_DIR               {path} cannot be written: Not a directory'
    in lines
  )
  assert lines[-1] == '1 to be mended: MODEL_DIR.'
  assert f'{"":31}-> Choose a folder of your own, or free space.' in lines
  assert main.main(['doctor', flag, '--json']) == 4
  assert json.loads(capsys.readouterr().out)['ok'] is False


def test_a_model_that_cannot_be_loaded_is_a_finding(
  healthy, monkeypatch, capsys
):
  def look():
    raise errors.DataError('params.safetensors is damaged.')
    yield

  monkeypatch.setattr(looks, 'at_model', look)
  assert main.main(['doctor']) == 4
  printed = capsys.readouterr().out
  assert 'shipped model           DataError: params.safetensors is' in printed
  assert 'a topic' in printed, 'the others were looked at all the same'


@pytest.mark.parametrize('text', ['If not provided.', looks.OUTPUT])
def test_the_sentence_must_be_the_expected_one(text, monkeypatch):
  fake = types.SimpleNamespace(
    generate=lambda texts: [types.SimpleNamespace(text=text)]
  )
  monkeypatch.setattr(generation, 'load', lambda: fake)
  (found,) = looks.at_model()
  is_expected = text == 'If not provided, the value defaults to None.'
  assert found.status == (findings.OK if is_expected else findings.WRONG)


def test_devices_are_described():
  (found,) = looks.at_devices()
  assert found.topic == 'backend' and found.found.startswith('cpu, ')
  assert found.status != findings.WRONG


def test_a_folder_that_would_be_made(tmp_path):
  (found,) = looks.at_folder('MODEL_DIR', str(tmp_path / 'a' / 'b'))
  assert found.status == findings.OK and 'can be made' in found.found
  assert not list(tmp_path.iterdir()), 'the probe is gone'


def test_what_the_system_refuses_is_told(tmp_path, monkeypatch, healthy):
  """Root may write anywhere, so the refusal is made up."""

  def refuse(*args, **kwargs):
    raise PermissionError(13, 'Permission denied')

  monkeypatch.setattr(looks.tempfile, 'TemporaryFile', refuse)
  monkeypatch.setenv('JAX_COMPILATION_CACHE_DIR', str(tmp_path))
  (found,) = [
    x for x in doctor.look(None, None) if x.topic == 'compilation cache'
  ]
  assert found.status == findings.WRONG and found.fix
  assert found.found == f'{tmp_path} cannot be written: Permission denied'


def test_a_bucket_is_not_tried():
  (found,) = looks.at_folder('MODEL_DIR', 'gs://bucket/run')
  assert found.status == findings.NOTE


def test_data_sets_that_are_there_and_that_are_not(monkeypatch, tmp_path):
  def check_data(task):
    assert task.tfds_data_dir == str(tmp_path)
    if task.info.name == 'wmt15_enfr_v003':
      raise errors.DataError('It is not there. Run: tfds build x')

  monkeypatch.setattr(calm_tasks.CalmTask, 'check_data', check_data)
  found = {x.topic: x for x in looks.at_data_sets(str(tmp_path))}
  assert found.keys() == calm_tasks.TASKS.keys()
  missing = found.pop('wmt15_enfr_v003')
  assert missing.status == findings.NOTE and missing.fix == 'tfds build x'
  assert {x.status for x in found.values()} == {findings.OK}


def test_a_data_folder_that_is_none_is_wrong(monkeypatch, tmp_path):
  monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path / 'none'))
  (found,) = looks.at_data_sets(None)
  assert found.status == findings.WRONG and 'none is no folder' in found.found
