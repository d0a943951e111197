"""`calm validate`: files, words, and what it refuses."""

import csv
import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
from testing import dumps

from calm_jax.cli import main
from calm_jax.records import contracts
from calm_jax.validation import trials, validation_records

PNG = b'\x89PNG\r\n\x1a\n'
TABLES = (
  'validation.csv',
  'calibration_size.csv',
  'distribution_shift.csv',
  'replay_gap.csv',
)


def write(directory, **fields):
  manifest, data = dumps.make_dump(60, **fields)
  sources = np.array(['short' if i % 2 else 'much longer' for i in range(60)])
  data = dataclasses.replace(data, sources=sources)
  dumps.write_dump(directory, manifest, [data])
  return str(directory)


@pytest.fixture
def directory(tmp_path):
  return write(tmp_path / 'dump')


def failure(capsys, *args):
  """(exit code, message) of a command that must print one line on stderr."""
  code = main.main(['validate', *args])
  captured = capsys.readouterr()
  assert captured.err.count('\n') == 1 and captured.err.endswith('\n')
  return code, captured.err


def rows_of(path):
  with open(path, encoding='utf-8', newline='') as file:
    return list(csv.DictReader(file))


def test_all_files_and_the_summary(directory, tmp_path, capsys):
  other = write(tmp_path / 'static', measure=dumps.choice('StaticExit'))
  output = tmp_path / 'out'
  code = main.main(
    [
      'validate',
      f'--dump_dir={directory}',
      f'--dump_dir={other}',
      f'--output_dir={output}',
      '--num_splits=7',
      '--tolerances=0.1,0.3',
      '--sizes=25,1000',
    ]
  )
  printed = capsys.readouterr()
  assert code == 0, printed.err
  assert 'Tolerance 0.1, textual consistency of chrF; 7 splits' in printed.out
  for word in ('SoftmaxTopTwoGap', 'StaticExit', 'mean_loss_scan', 'oracle'):
    assert word in printed.out
  pictures = [
    f'{name}_{objective}.png'
    for name in ('violations', 'calibration_size', 'distribution_shift')
    for objective in ('textual', 'risk')
  ] + ['replay_gap_textual.png']
  assert {path.name for path in output.iterdir()} == {
    'validation.json',
    *TABLES,
    *pictures,
  }
  for name in pictures:
    assert (output / name).read_bytes().startswith(PNG)
  result = contracts.read_json(
    output / 'validation.json', validation_records.ValidationResult
  )
  assert (result.num_trials, result.num_examples) == (7, 60)
  rows = rows_of(output / 'validation.csv')
  keys = [
    (x['rule'], x['measure'], x['consistency'], x['tolerance']) for x in rows
  ]
  assert len(set(keys)) == len(keys) == 8 * 2 * 2 * 2
  records = result.of(validation_records.RANDOM_SPLITS)
  for row, record in zip(rows, records, strict=True):
    assert float(row['layers']) == record.layers
    low, high = (float(row[f'violations_on_test_{x}']) for x in ('low', 'high'))
    assert low <= float(row['violations_on_test']) <= high
  sizes = {x['num_calibration'] for x in rows_of(output / TABLES[1])}
  assert sizes == {'25', '48', '60'}


def test_the_same_command_writes_the_same_bytes(directory, tmp_path, capsys):
  contents = []
  for name, seed in (('a', 0), ('b', 0), ('c', 1)):
    folder = tmp_path / name
    args = [f'--dump_dir={directory}', f'--output_dir={folder}']
    args += ['--tolerances=0.1', '--consistency=risk', f'--seed={seed}']
    assert main.main(['validate', *args]) == 0
    contents.append({x.name: x.read_bytes() for x in folder.iterdir()})
  assert contents[0] == contents[1]
  assert contents[0]['validation.csv'] != contents[2]['validation.csv']


def test_groups_from_a_file(directory, tmp_path, capsys):
  groups = tmp_path / 'groups.json'
  groups.write_text(json.dumps({f'id-{i}': f'g{i % 3}' for i in range(60)}))
  code = main.main(
    [
      'validate',
      f'--dump_dir={directory}',
      f'--output_dir={tmp_path}/out',
      f'--groups={groups}',
      '--tolerances=0.2',
    ]
  )
  assert code == 0, capsys.readouterr().err
  pairs = {
    (x['calibrated_on'], x['tested_on'])
    for x in rows_of(tmp_path / 'out' / 'distribution_shift.csv')
  }
  assert ('all but g1', 'g1') in pairs and ('g1', 'g1') in pairs
  assert len(pairs) == 6


def test_macros(directory, tmp_path, capsys):
  code = main.main(
    [
      'validate',
      f'--dump_dir={directory}',
      f'--gin.VALIDATION_OUTPUT_DIR="{tmp_path}/out"',
      '--gin.NUM_SPLITS=3',
      '--gin.TOLERANCES="0.2"',
      '--gin.P_VALUE="bentkus"',
      '--gin.PROCEDURE="holm"',
      '--gin.CONSISTENCIES="risk"',
    ]
  )
  assert code == 0, capsys.readouterr().err
  result = json.loads((tmp_path / 'out' / 'validation.json').read_text())
  assert result['num_trials'] == 3 and result['tolerances'] == [0.2]
  assert (result['p_value'], result['procedure']) == ('Bentkus()', 'Holm()')
  assert {row['consistency'] for row in result['rows']} == {'risk'}


@pytest.mark.parametrize(
  ('flag', 'code', 'message'),
  [
    ('--tolerances=0.2,0.1', 2, 'must rise'),
    ('--tolerances=', 2, 'joined by commas'),
    ('--tolerances=0', 2, 'tolerance'),
    ('--tolerances=nan', 2, 'tolerance'),
    ('--failure_prob=1.5', 2, 'failure_prob'),
    ('--num_splits=0', 2, 'at least 1'),
    ('--test_share=1', 2, 'test_share'),
    ('--sizes=a', 2, 'joined by commas'),
    ('--sizes=0', 2, 'at least 1'),
    ('--seed=-1', 2, 'at least 0'),
    ('--consistency=text', 2, "Did you mean 'textual'?"),
    ('--metric=chrff', 2, 'chrf'),
    ('--p_value=hoefding', 2, "'hoeffding'"),
    ('--procedure=bonferoni', 2, "'bonferroni'"),
    ('--dump_dir=nowhere', 3, 'nowhere'),
    ('--groups=nowhere.json', 3, 'nowhere.json'),
    ('--vocabulary=nowhere.model', 3, 'nowhere.model'),
  ],
)
def test_refuses(flag, code, message, directory, tmp_path, capsys):
  args = [f'--dump_dir={directory}', f'--output_dir={tmp_path}/out', flag]
  got, printed = failure(capsys, *args)
  assert got == code and message in printed
  assert not (tmp_path / 'out').exists()


def test_a_dump_is_required(tmp_path, capsys):
  code, printed = failure(capsys, f'--output_dir={tmp_path}/out')
  assert code == 2 and 'Missing --dump_dir' in printed


@pytest.mark.parametrize('content', ['[1]', '{"id-0": 3}', '{"id-0": "a"}'])
def test_refuses_groups_that_are_none(content, directory, tmp_path, capsys):
  groups = tmp_path / 'groups.json'
  groups.write_text(content)
  args = [f'--dump_dir={directory}', f'--output_dir={tmp_path}/out']
  code, printed = failure(capsys, *args, f'--groups={groups}')
  assert code == 3 and 'groups.json must' in printed


def test_refuses_an_altered_dump(directory, tmp_path, capsys):
  path = tmp_path / 'dump' / 'shard-00000.npz'
  path.write_bytes(path.read_bytes()[:-1])
  args = [f'--dump_dir={directory}', f'--output_dir={tmp_path}/out']
  code, printed = failure(capsys, *args)
  assert code == 3 and 'shard-00000.npz' in printed


def test_tolerances_of_the_plan_are_the_default():
  assert 0.1 in trials.TOLERANCES and 0.05 in trials.TOLERANCES


def test_runs_without_accelerator_libraries(directory, tmp_path):
  program = f"""
import sys
class Missing:
  def find_spec(self, name, path=None, target=None):
    if name.split('.')[0] in ('jax', 'flax', 'tensorflow', 'seqio', 'torch'):
      raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Missing())
from calm_jax.cli import main
sys.exit(main.main(['validate', '--dump_dir={directory}', '--tolerances=0.1',
                    '--output_dir={tmp_path}/out']))
"""
  done = subprocess.run(
    [sys.executable, '-c', program], capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr
  assert (tmp_path / 'out' / 'validation.csv').exists()
