"""`calm doctor`: what is printed, and its exit code."""

import json
import types

import pytest

from calm_jax import errors
from calm_jax.cli import main, native_logs
from calm_jax.data import calm_tasks
from calm_jax.decode import generation
from calm_jax.doctor import data_sets, findings, machine, model

GOOD = findings.Finding('a topic', findings.OK, 'is fine')


@pytest.fixture
def healthy(monkeypatch):
  """No model is loaded and no TensorFlow imported; versions are looked at."""
  for room in (model, data_sets, machine):
    monkeypatch.setattr(room, 'look', lambda *args: iter([GOOD]))
  monkeypatch.setattr(native_logs, 'import_tensorflow', lambda: None)


def test_lines_for_people(healthy, tmp_path, capsys):
  assert main.main(['doctor', f'--model_dir={tmp_path}']) == 0
  printed = capsys.readouterr().out
  assert '  ok   a topic                 is fine\n' in printed
  assert f'  ok   MODEL_DIR               {tmp_path} is readable' in printed
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
    f'WRONG  MODEL_DIR               {tmp_path / "file"} is a file' in lines
  )
  assert lines[-1] == '1 to be mended: MODEL_DIR.'
  assert f'{"":31}-> Name a folder.' in lines
  assert main.main(['doctor', flag, '--json']) == 4
  assert json.loads(capsys.readouterr().out)['ok'] is False


def test_a_model_that_cannot_be_loaded_is_a_finding(
  healthy, monkeypatch, capsys
):
  def look():
    raise errors.DataError('params.safetensors is damaged.')
    yield

  monkeypatch.setattr(model, 'look', look)
  assert main.main(['doctor']) == 4
  printed = capsys.readouterr().out
  assert 'shipped model           DataError: params.safetensors is' in printed
  assert 'a topic' in printed, 'the others were looked at all the same'


@pytest.mark.parametrize('text', ['If not provided.', model.OUTPUT])
def test_the_sentence_must_be_the_expected_one(text, monkeypatch):
  fake = types.SimpleNamespace(
    generate=lambda texts: [types.SimpleNamespace(text=text)]
  )
  monkeypatch.setattr(generation, 'load', lambda: fake)
  (found,) = model.look()
  is_expected = text == 'If not provided, the value defaults to None.'
  assert found.status == (findings.OK if is_expected else findings.WRONG)


def test_the_machine_is_described():
  found = {x.topic: x for x in machine.look()}
  assert found['backend'].found.startswith('cpu, ')
  assert ' GiB available, ' in found['memory'].found
  assert findings.is_well(found.values())


def test_data_sets_that_are_there_and_that_are_not(monkeypatch, tmp_path):
  def check_data(task):
    assert task.tfds_data_dir == str(tmp_path)
    if task.info.name == 'wmt15_enfr_v003':
      raise errors.DataError('It is not there. Run: tfds build x')

  monkeypatch.setattr(calm_tasks.CalmTask, 'check_data', check_data)
  found = {x.topic: x for x in data_sets.look(str(tmp_path))}
  assert found.keys() == calm_tasks.TASKS.keys()
  missing = found.pop('wmt15_enfr_v003')
  assert missing.status == findings.NOTE and missing.fix == 'tfds build x'
  assert {x.status for x in found.values()} == {findings.OK}


def test_a_data_folder_that_is_none_is_wrong(monkeypatch, tmp_path):
  monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path / 'none'))
  (found,) = data_sets.look(None)
  assert found.status == findings.WRONG and 'none is no folder' in found.found
