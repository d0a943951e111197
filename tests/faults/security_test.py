"""Nothing that we read is executed."""

import ast
import pathlib
import shutil
import sys

import pytest

from calm_jax.checkpoints import bundle, load
from calm_jax.config import gin_setup, saved_config

ROOT = pathlib.Path(__file__).parents[2]
SOURCES = sorted(
  path
  for folder in ('calm_jax', 'benchmarks', 'tpu_scripts', 'reliability')
  for path in (ROOT / folder).rglob('*.py')
)
# Each can run what a file says.
MODULES = {
  'cPickle',
  'cloudpickle',
  'code',
  'dill',
  'joblib',
  'jsonpickle',
  'marshal',
  'pickle',
  'runpy',
  'shelve',
  'yaml',
}
BUILTINS = {'eval', 'exec', 'compile', '__import__'}
ATTRIBUTES = {('torch', 'load'), ('os', 'system'), ('os', 'popen')}
ARGUMENTS = {'allow_pickle': False, 'shell': False, 'weights_only': True}
EVIL = 'from pathlib import Path\nPath({marker!r}).write_text("owned")\n'


def dangers(tree):
  """(line, what) of whatever could run what a file says."""
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      names = {alias.name.partition('.')[0] for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      names = {(node.module or '').partition('.')[0]}
    else:
      names = set()
    yield from ((node.lineno, name) for name in names & MODULES)
    if not isinstance(node, ast.Call):
      continue
    called = node.func
    if isinstance(called, ast.Name) and called.id in BUILTINS:
      yield node.lineno, called.id
    if isinstance(called, ast.Attribute):
      owner = getattr(called.value, 'id', '')
      if (owner, called.attr) in ATTRIBUTES:
        yield node.lineno, f'{owner}.{called.attr}'
      filters = [x.value.value for x in node.keywords if x.arg == 'filter']
      if called.attr == 'extractall' and filters != ['data']:
        yield node.lineno, "extractall without filter='data'"
    for keyword in node.keywords:
      if keyword.arg in ARGUMENTS:
        value = getattr(keyword.value, 'value', None)
        if value is not ARGUMENTS[keyword.arg]:
          yield node.lineno, f'{keyword.arg}={value}'


def test_the_scan_sees_each_danger():
  text = (
    'import pickle\nfrom yaml import load\neval(x)\ntorch.load(f)\n'
    'np.load(f, allow_pickle=True)\nrun(c, shell=True)\nos.system(c)\n'
    'archive.extractall()\n'
  )
  assert [line for line, _ in dangers(ast.parse(text))] == list(range(1, 9))
  fine = (
    'model.eval()\nnp.load(f, allow_pickle=False)\nre.compile(x)\n'
    'archive.extractall(folder, filter="data")\n'
  )
  assert list(dangers(ast.parse(fine))) == []


def test_fault_22_no_source_can_run_what_a_file_says():
  assert len(SOURCES) > 200
  found = [
    f'{path.relative_to(ROOT)}:{line}: {what}'
    for path in SOURCES
    for line, what in dangers(ast.parse(path.read_text(encoding='utf-8')))
  ]
  assert found == []


def test_fault_65_gin_is_parsed_in_one_place_alone():
  """There, and only files that the user names: see `gin_setup.parse`."""
  parsers = ('parse_config', 'parse_config_file', 'parse_config_files_and_bin')
  found = {
    path.relative_to(ROOT / 'calm_jax').as_posix()
    for path in (ROOT / 'calm_jax').rglob('*.py')
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8')))
    if isinstance(node, ast.Attribute) and node.attr.startswith(parsers)
  }
  assert found == {'config/gin_setup.py'}


@pytest.fixture
def evil(tmp_path, monkeypatch):
  """Fills a folder with gin files that must not run; then checks that."""
  marker = tmp_path / 'owned'
  monkeypatch.syspath_prepend(str(tmp_path / 'modules'))
  (tmp_path / 'modules').mkdir()
  module = tmp_path / 'modules' / 'evil_module.py'
  module.write_text(EVIL.format(marker=str(marker)))

  def fill(folder):
    for name in ('config.gin', 'operative_config.gin', 'model.gin'):
      (folder / name).write_text('import evil_module\nTRAIN_STEPS = 4\n')

  yield fill
  assert 'evil_module' not in sys.modules and not marker.exists()
  # It would have run, had anybody parsed it.
  path = next(tmp_path.rglob('model.gin'))
  gin_setup.parse([str(path)], [], stage_macros={'TRAIN_STEPS'})
  assert marker.exists()
  del sys.modules['evil_module']


@pytest.mark.parametrize('kind', ['bundle', 'hugging face'])
def test_fault_65_gin_of_a_downloaded_model_is_never_parsed(
  kind, evil, hf_tiny, tmp_path
):
  source = {
    'bundle': bundle.default_bundle_path(),
    'hugging face': hf_tiny / 't5_v1_1_tiny',
  }[kind]
  folder = shutil.copytree(source, tmp_path / 'downloaded')
  evil(folder)
  assert load.load_model(folder).params


def test_fault_65_gin_of_a_run_that_is_taken_up_is_never_parsed(evil, tmp_path):
  run = tmp_path / 'run'
  (run / 'checkpoint_4').mkdir(parents=True)
  evil(run)
  # Compared as text with the present one.
  saved_config.check_continues(run, '# Parameters:\nTRAIN_STEPS = 4\n')
