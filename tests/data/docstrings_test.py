"""Tests of reading docstrings from source files."""

import ast
import pathlib

import pytest

from calm_jax import errors
from calm_jax.data import docstrings, installed

_SOURCE = '''"""The module says what is in it here."""

class Thing:
  """A thing that holds all the other things.

  It is made once for the whole program.
  """

  def method(self, a, /, b, *rest, key=1, **others):
    """Gives back what was put in before."""
    if a:
      def inner():
        """Inner one that is documented as well."""

async def later(x):
  """Waits for the event to come at last."""
'''


def test_documented_nodes_come_in_the_order_of_the_text():
  found = [text for _, text in docstrings.docstrings_of(ast.parse(_SOURCE))]
  assert [text.split()[0] for text in found] == [
    'The', 'A', 'Gives', 'Inner', 'Waits',
  ]  # fmt: skip


def test_the_walk_misses_nothing_that_ast_walk_finds():
  source = pathlib.Path(ast.__file__).read_text(encoding='utf-8')
  tree = docstrings.parse(source)
  documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
  expected = sorted(
    ast.get_docstring(node)
    for node in ast.walk(tree)
    if isinstance(node, documented) and ast.get_docstring(node)
  )
  assert sorted(text for _, text in docstrings.docstrings_of(tree)) == expected
  assert expected


def test_signatures():
  nodes = [node for node, _ in docstrings.docstrings_of(ast.parse(_SOURCE))]
  assert [docstrings.signature(node) for node in nodes[1:]] == [
    'class Thing',
    'method(a, b, *rest, key, **others)',
    'inner()',
    'later(x)',
  ]


def test_comments_come_in_blocks_without_their_signs():
  source = '# One line\n# and its end.\n\nx = 1  # beside code\n  ## Two.\n#'
  assert list(docstrings.comments_of(source)) == [
    'One line\nand its end.',
    'Two.\n',
  ]


def test_sentences_of_comments_follow_those_of_docstrings(tmp_path):
  path = tmp_path / 'a.py'
  path.write_text(
    '# The comment that is a whole\n# sentence of prose.\n'
    'def f():\n  """The docstring that is a whole sentence too."""\n'
  )
  assert docstrings.extract_here([path]).sentences == (
    'The docstring that is a whole sentence too.',
    'The comment that is a whole sentence of prose.',
  )


def test_extract_in_workers_equals_extract_here(source):
  files = source.list_files()
  here = docstrings.extract_here(files)
  assert docstrings.extract(files, num_workers=2) == here
  assert here.files_read == 2
  assert here.files_skipped == 2
  assert len(here.summaries) == 400
  assert len(here.sentences) == 800
  assert here.summaries[0] == (
    'function_0(first, second) docstring: If the tensor is a steps old, the'
    ' shape is read again.',
    "Returns the tensor number a in order, unless it's missing.",
  )


def test_nothing_is_imported_or_executed(tmp_path):
  trace = tmp_path / 'trace'
  (tmp_path / 'evil.py').write_text(
    f'"""Says what it does in a sentence."""\nopen({str(trace)!r}, "w")\n'
  )
  found = docstrings.extract([tmp_path / 'evil.py'])
  assert found.sentences == ('Says what it does in a sentence.',)
  assert not trace.exists()


def test_a_failing_worker_is_told(tmp_path, monkeypatch):
  worker = tmp_path / 'worker'
  worker.write_text('#!/bin/sh\nexit 7\n')
  worker.chmod(0o755)
  monkeypatch.setattr(docstrings.sys, 'executable', str(worker))
  with pytest.raises(errors.DataError, match='exit code 7'):
    docstrings.extract([tmp_path / 'any.py'])


def test_a_worker_that_cannot_start_is_told(tmp_path, monkeypatch):
  missing = str(tmp_path / 'no_such_python')
  monkeypatch.setattr(docstrings.sys, 'executable', missing)
  with pytest.raises(errors.ResourceError, match='no_such_python'):
    docstrings.extract([tmp_path / 'any.py'])


def test_walk_skips_tests_and_sorts(source):
  names = [path.name for path in source.list_files()]
  assert names == ['broken.py', 'latin.py', 'one.py', 'two.py']


def test_installed_packages_are_the_dependencies_only():
  names = set(installed.packages())
  assert {'python', 'jax', 'flax', 'numpy', 'seqio'} <= names
  # Tools of the test and lint extras are no part of the corpus.
  assert not names & {'pytest', 'hypothesis', 'ruff', 'pre-commit', 'calm-jax'}


def test_installed_files_exist_once_and_hold_no_tests():
  files = installed.files()
  assert len(set(files)) == len(files) > 1000
  assert all(path.exists() for path in files[::97])
  assert not any('tests' in path.parts[-3:] for path in files)
