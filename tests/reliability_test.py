"""The tools in reliability/: that they would still do what they say."""

import pathlib

import pytest

from reliability import kill_matrix, mutations

ROOT = pathlib.Path(__file__).parents[1]


@pytest.mark.parametrize('mutation', mutations.MUTATIONS, ids=lambda x: x[0])
def test_each_mutation_finds_its_line_and_its_tests(mutation, tmp_path):
  _, file, old, new, tests = mutation
  text = (ROOT / 'calm_jax' / file).read_text(encoding='utf-8')
  path = tmp_path / 'copy.py'
  path.write_text(text, encoding='utf-8')
  with mutations.mutated(path, old, new):
    assert path.read_text(encoding='utf-8') == text.replace(old, new) != text
    compile(path.read_text(encoding='utf-8'), file, 'exec')
  assert path.read_text(encoding='utf-8') == text
  for test in tests.split():
    name, _, function = test.partition('::')
    assert f'def {function}' in (ROOT / name).read_text(encoding='utf-8')


def test_the_table_counts_what_reached_a_running_command():
  run = kill_matrix.Run('train', 'SIGKILL', [1.0, 2.0], [-9, 0, 0], hits=1)
  lost = kill_matrix.Run('train', 'SIGKILL', [1.0], [-9, 0], 1, 'params/w')
  text = kill_matrix.table([run, lost])
  lines = [line.split() for line in text.splitlines()]
  assert lines[1] == ['train', 'SIGKILL', '2', '2', '1']
  assert lines[-1] == ['all', '2', '2', '1']


def test_what_differs_is_named():
  found = {'same': '1', 'other': '1', 'more': '1'}
  expected = {'same': '1', 'other': '2', 'less': '1'}
  assert kill_matrix._different(found, expected) == 'less, more, other'
  assert kill_matrix._different(found, found) == ''
