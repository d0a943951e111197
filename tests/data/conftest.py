"""A tiny made-up package whose docstrings stand in for site-packages."""

import pathlib

import pytest

from calm_jax.data import corpus, installed, vocabulary

_NOUNS = (
  'tensor', 'window', 'server', 'shape', 'widget', 'parser', 'model', 'layer',
  'Python value', 'cache', 'folder', 'gradient', 'socket', 'letter', 'thread',
)  # fmt: skip
_VERBS = ('Returns', 'Computes', 'Writes', 'Reads', 'Closes', 'Opens')

_FUNCTION = '''
def {name}(first, second=None):
  """{verb} the {noun} number {word} in order, unless it's missing.

  If the {noun} is {word} steps old, the {other} is read again.
  """
'''


def _words(number: int) -> str:
  letters = 'abcdefghijklmnopqrst'
  return ''.join(letters[int(digit)] for digit in str(number))


def write_package(root: pathlib.Path, num_functions: int = 400) -> None:
  """Two modules of documented functions, one broken and one odd file."""
  package = root / 'tiny'
  package.mkdir(parents=True)
  bodies = [
    _FUNCTION.format(
      name=f'function_{i}',
      verb=_VERBS[i % len(_VERBS)],
      noun=_NOUNS[i % len(_NOUNS)],
      other=_NOUNS[(i + 3) % len(_NOUNS)],
      word=_words(i),
    )
    for i in range(num_functions)
  ]
  half = num_functions // 2
  (package / 'one.py').write_text(''.join(bodies[:half]), encoding='utf-8')
  (package / 'two.py').write_text(''.join(bodies[half:]), encoding='utf-8')
  (package / 'broken.py').write_text('def f(:\n', encoding='utf-8')
  (package / 'latin.py').write_bytes(b'"""Caf\xe9 is not valid UTF-8."""\n')
  tests = package / 'tests'
  tests.mkdir()
  (tests / 'skipped.py').write_text(bodies[0], encoding='utf-8')


def source_of(root: pathlib.Path, version: str = '1') -> corpus.Source:
  return corpus.Source({'tiny': version}, lambda: installed.walk([root]))


@pytest.fixture(scope='session')
def source(tmp_path_factory) -> corpus.Source:
  root = tmp_path_factory.mktemp('site')
  write_package(root)
  return source_of(root)


@pytest.fixture(scope='session')
def cache_dir(tmp_path_factory, source) -> pathlib.Path:
  folder = tmp_path_factory.mktemp('cache')
  corpus.ensure_corpus(source, folder)
  return folder


@pytest.fixture(scope='session')
def vocabulary_path(tmp_path_factory, source, cache_dir) -> pathlib.Path:
  path = tmp_path_factory.mktemp('vocabulary') / 'tiny.model'
  vocabulary.train_vocabulary(
    path,
    vocab_size=350,
    sentences=vocabulary.training_text(source=source, cache_dir=cache_dir),
  )
  return path


@pytest.fixture(scope='session')
def tokenizer(vocabulary_path) -> vocabulary.Tokenizer:
  return vocabulary.Tokenizer(vocabulary_path)
