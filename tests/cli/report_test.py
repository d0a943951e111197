"""`calm report` with one pair of files and with several."""

import dataclasses

import pytest

from calm_jax.cli import main
from calm_jax.records import contracts
from calm_jax.report import figures
from tests.report import conftest as made_up


@pytest.fixture(scope='module')
def results():
  return made_up.make_results()


@pytest.fixture(autouse=True)
def draw_nothing(monkeypatch):
  monkeypatch.setattr(figures, 'draw', lambda *results: ())


def write(folder, name, results, **fields):
  """Two files; returns the two flags that name them."""
  flags = []
  for kind in ('calibration', 'evaluation'):
    path = folder / f'{name}_{kind}.json'
    record = dataclasses.replace(getattr(results, kind), **fields)
    contracts.write_json_atomically(path, record)
    flags.append(f'--{kind}={path}')
  return flags


def test_several_pairs_join_one_table(results, tmp_path, capsys):
  first = write(tmp_path, 'first', results)
  second = write(tmp_path, 'second', results, tolerance=0.25)
  code = main.main(
    ['report', *first, *second, f'--output_dir={tmp_path}/report']
  )
  printed = capsys.readouterr()
  assert code == 0, printed.err
  for tolerance in ('0.1', '0.25'):
    assert f'  {tolerance}  softmax gap' in printed.out
  page = (tmp_path / 'report' / 'index.html').read_text(encoding='utf-8')
  assert page.count('<td class="word">softmax gap</td>') == 2
  # The page itself is about the first.
  assert 'at most 0.1,' in page and 'at most 0.25' not in page


def test_macros_name_one_pair(results, tmp_path):
  calibration, evaluation = write(tmp_path, 'only', results)
  code = main.main(
    [
      'report',
      f'--gin.CALIBRATION_FILE="{calibration.partition("=")[2]}"',
      f'--gin.EVALUATION_FILE="{evaluation.partition("=")[2]}"',
      f'--output_dir={tmp_path}/report',
    ]
  )
  assert code == 0 and (tmp_path / 'report' / 'index.html').exists()


def test_refuses_a_calibration_without_its_evaluation(
  results, tmp_path, capsys
):
  first = write(tmp_path, 'first', results)
  second = write(tmp_path, 'second', results, tolerance=0.25)
  output = f'--output_dir={tmp_path}/report'
  assert main.main(['report', *first, second[0], output]) == 2
  assert '2 --calibration and 1 --evaluation' in capsys.readouterr().err
  # Not in the same order: they do not belong together.
  crossed = [first[0], second[1], second[0], first[1]]
  assert main.main(['report', *crossed, output]) == 3
  assert 'must be of this calibration' in capsys.readouterr().err
  assert not (tmp_path / 'report').exists()


def test_names_what_is_missing(capsys):
  assert main.main(['report']) == 2
  message = capsys.readouterr().err
  for flag in ('--calibration', '--evaluation', '--output_dir'):
    assert flag in message
