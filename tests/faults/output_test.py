"""What is written, and where: the same everywhere, and inside its folder."""

import locale
import os
import pathlib
import time

import pytest
from testing import dumps, hostile

from calm_jax import errors
from calm_jax.cli import main
from calm_jax.data import tasks, text_tasks
from calm_jax.display import visible_text
from calm_jax.records import csv_tables, json_records
from calm_jax.report import page_files

CONTROL = [chr(x) for x in (*range(32), *range(0x7F, 0xA0), 0x202E, 0x2066)]


def shows_controls(text):
  return any(x in text for x in CONTROL if x != '\n')


@pytest.fixture
def other_place(monkeypatch):
  """Another time zone, and a locale with a decimal comma if there is one."""
  before = locale.setlocale(locale.LC_ALL)
  monkeypatch.setenv('TZ', 'Asia/Kolkata')
  time.tzset()
  for name in ('de_DE.UTF-8', 'fr_FR.UTF-8', 'C.UTF-8'):
    try:
      locale.setlocale(locale.LC_ALL, name)
      break
    except locale.Error:
      continue
  yield
  locale.setlocale(locale.LC_ALL, before)
  monkeypatch.undo()
  time.tzset()


def calibrate_in(folder, monkeypatch, capsys):

  folder.mkdir()
  monkeypatch.chdir(folder)
  manifest, data = dumps.make_dump(40)
  dumps.write_dump(pathlib.Path('a dump'), manifest, [data])
  args = ['--dump_dir=a dump', '--output=out.json', '--tolerance=0.4']
  assert main.main(['calibrate', *args]) == 0
  return capsys.readouterr().out, pathlib.Path('out.json').read_bytes()


def test_fault_66_the_same_in_any_locale_time_zone_and_folder(
  tmp_path, monkeypatch, capsys, request
):
  here = calibrate_in(tmp_path / 'plain', monkeypatch, capsys)
  request.getfixturevalue('other_place')
  name = 'Größe \u4f60\u597d, "quoted" & spaced'
  assert calibrate_in(tmp_path / name, monkeypatch, capsys) == here
  assert csv_tables.to_csv(['a'], [[0.5]]) == 'a\n0.5\n'


def test_fault_62_a_message_obeys_no_terminal_code(fails, tmp_path):
  for text in (hostile.TERMINAL, hostile.BIDI.replace('\0', '')):
    path = tmp_path / f'{text}.json'
    message = fails(3, 'calibrate', f'--dump_dir={path}', '--output=o')
    assert not shows_controls(message)
    assert visible_text.visible(text) in message


def test_fault_62_what_calibrate_prints_obeys_no_terminal_code(run_calibrate):
  manifest, data = dumps.make_dump(40)
  poisoned = hostile.poison(manifest, hostile.TERMINAL)
  code, printed, _ = run_calibrate('--tolerance=0.4', dump=(poisoned, data))
  assert code == 0 and not shows_controls(printed)


@pytest.mark.parametrize(
  'text',
  ['=HYPERLINK("http://x")', '+1', '-1', '@SUM(A1)', '\t=1', ' =1', '\r'],
)
def test_fault_62_a_name_is_no_formula_of_a_spreadsheet(text):
  line = csv_tables.to_csv(['name', 'value'], [[text, -1.5]]).split('\n', 1)[1]
  assert line.lstrip('"').startswith("'")
  assert line.endswith(',-1.5\n'), 'a number stays one'


def test_fault_62_a_lone_surrogate_is_written_as_its_code():
  table = csv_tables.to_csv(['name'], [['a\ud800'], ['é😀']])
  assert table.encode().decode() == 'name\na\\ud800\né😀\n'


def test_fault_62_other_text_stays_as_it_is():
  table = csv_tables.to_csv(['a', 'b'], [['a = b', None], ['"x", y', 3]])
  assert table == 'a,b\na = b,\n"""x"", y",3\n'


@pytest.mark.parametrize('write', ['record', 'report'])
def test_fault_64_a_link_is_replaced_and_not_followed(write, tmp_path):
  outside = tmp_path / 'outside'
  outside.write_text('mine')
  folder = tmp_path / 'report'
  folder.mkdir()
  os.symlink(outside, folder / 'index.html')
  if write == 'record':
    json_records.write_bytes_atomically(folder / 'index.html', b'new')
  else:
    page_files.write_all(folder, {'index.html': b'new'})
  assert outside.read_text() == 'mine'
  assert (folder / 'index.html').read_bytes() == b'new'
  assert not (folder / 'index.html').is_symlink()


@pytest.mark.parametrize('name', ['../../x', '..', '.hidden', 'a/b', 'a\\b'])
def test_fault_64_a_task_cannot_name_a_file_elsewhere(name):
  class Task:
    info = tasks.TaskInfo(name, '', ('chrf',), 'input_copied', str)

  with pytest.raises(errors.ConfigError, match='name of a task'):
    text_tasks.add(Task())
