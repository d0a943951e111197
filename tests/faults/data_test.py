"""Splits, texts and vocabularies that are wrong; most of them exit code 3."""

import shutil

import pytest

from calm_jax.checkpoints import bundle
from calm_jax.cli import loading
from calm_jax.data import vocabulary
from calm_jax.inference import sources

FILE_TASK = """
from __gin__ import dynamic_registration
from calm_jax.data import file_tasks
MIXTURE_OR_TASK_NAME = @file_tasks.register()
file_tasks.register:
  name = 'of_a_file'
  files = {{'test': '{path}'}}
  inputs = 'text'
  targets = 'title'
"""


@pytest.fixture
def no_model(monkeypatch):
  """Nothing is loaded: what is wrong must be seen before."""
  monkeypatch.setattr(loading, 'load', None)


@pytest.mark.parametrize('stage', ['dump', 'infer'])
def test_fault_43_a_split_that_the_task_lacks(stage, no_model, fails, tmp_path):
  message = fails(2, stage, '--split=tset', f'--output_dir={tmp_path}/d')
  assert "validation, calibration, test, got 'tset'" in message
  assert not (tmp_path / 'd').exists()


@pytest.mark.parametrize('stage', ['dump', 'infer'])
def test_fault_43_an_empty_split(stage, no_model, fails, tmp_path):
  path = tmp_path / 'examples.tsv'
  path.write_text('text\ttitle\n')
  (tmp_path / 'mine.gin').write_text(FILE_TASK.format(path=path))
  message = fails(
    3,
    stage,
    f'--gin_file={tmp_path}/mine.gin',
    '--split=test',
    f'--output_dir={tmp_path}/d',
  )
  assert str(path) in message and 'must hold examples' in message


@pytest.mark.parametrize(
  ('content', 'said'),
  [
    (b'fine\n\xe9t\xe9\n', 'Line 2'),
    (b'fine\n\n', 'Line 2'),
    (b'', 'Line 1'),
  ],
)
def test_fault_45_a_line_is_named_before_anything_is_loaded(
  content, said, no_model, fails, tmp_path
):
  path = tmp_path / 'lines.txt'
  path.write_bytes(content)
  flags = f'--input_file={path}', f'--output_dir={tmp_path}/d'
  message = fails(3, 'infer', *flags)
  assert f'{said} of {path}' in message
  assert not (tmp_path / 'd').exists()


def test_fault_45_nul_and_very_long_lines_are_text(tmp_path):
  path = tmp_path / 'lines.txt'
  path.write_bytes(b'a\0word\n' + b'word ' * 200_000 + b'\n')
  first, second = sources.read_file(path, 'docstring_restoration')
  assert 'a' in first.inputs and 'word' in first.inputs
  assert len(second.inputs) > 900_000  # Cut later, with a warning: fault 46.


def test_fault_39_the_same_vocabulary_at_two_paths(tmp_path):
  here = bundle.default_bundle_path() / bundle.VOCABULARY_FILE
  there = shutil.copy(here, tmp_path / 'elsewhere.model')
  # Dumps and calibrations carry the digest, never the path.
  digests = {vocabulary.Tokenizer(x).digest for x in (here, there)}
  assert len(digests) == 1 and str(tmp_path) not in digests.pop()
