"""The shape of the package, checked by machine: who may import whom.

`ast` reads the imports, so nothing is executed; one subprocess per module
proves that everything below the dump works without JAX and TensorFlow.
"""

import ast
import pathlib
import subprocess
import sys

import pytest

import calm_jax

PACKAGE = pathlib.Path(calm_jax.__file__).parent

# Whatever all rooms may import; these import only each other.
FOUNDATION = (
  'errors',
  'json_records',
  'csv_tables',
  'unfinished',
  'dump_arrays',
  'record_checks',
  'efficiency_records',
  'evaluation_records',
  'contracts',
  'answers',
  'character_ngrams',
  'rouge',
  'text_metrics',
)
# Data flows down this list; imports point up it.
ROOMS = (
  't5',
  'early_exit',
  'decoding',
  'row_inputs',
  'beam_search',
  'decode_arguments',
  'early_exit_model',
  'continuous_batching',
  'decode_fns',
  'cross_entropy',
  'losses',
  'consistency_losses',
  'models',
  'optimizers',
  'multihost',
  'partitioning',
  'data',
  'checkpoints',
  'training',
  't5x_models',
  'data_parallel',
  'token_generator',
  'display',
  'generation',
  'dump',
  'inference',
  'calibration',
  'evaluation',
  'report',
  'study',
  'doctor',
  'cli',
)
# Below the waist of the data flow, all but `dump.runner`.
NUMPY_ONLY = (
  *FOUNDATION,
  'display',
  'dump.reader',
  'dump.writer',
  'calibration',
  'evaluation',
  'report',
)
HEAVY = ('jax', 'jaxlib', 'flax', 'tensorflow', 'seqio', 'torch')

FILES = sorted(PACKAGE.rglob('*.py'))


def room_of(module):
  """'calm_jax.t5.layers' -> 't5'."""
  parts = module.split('.')
  return parts[1] if len(parts) > 1 else ''


def module_of(path):
  parts = path.relative_to(PACKAGE.parent).with_suffix('').parts
  return '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)


def imported_modules(path):
  """All calm_jax modules that a file imports, at any depth of its code."""
  for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, f'{path} must import by absolute names.'
      yield from (f'{node.module}.{alias.name}' for alias in node.names)


def allowed_rooms(room):
  if room in FOUNDATION:
    return set(FOUNDATION)
  return {room, *FOUNDATION, *ROOMS[: ROOMS.index(room)]}


@pytest.mark.parametrize('path', FILES, ids=module_of)
def test_imports_point_one_way(path):
  room = room_of(module_of(path))
  imported = {
    room_of(module)
    for module in imported_modules(path)
    if module.startswith('calm_jax.')
  }
  if not room:
    assert not imported, 'calm_jax/__init__.py must stay light.'
    return
  assert room in FOUNDATION + ROOMS, (
    f'{path.name} is in no known room; give {room} its place in the order.'
  )
  assert imported <= allowed_rooms(room), (
    f'{module_of(path)} may not import {imported - allowed_rooms(room)}.'
  )


def test_the_foundation_has_no_cycles():
  graph = {
    name: {
      room_of(module)
      for module in imported_modules(PACKAGE / f'{name}.py')
      if module.startswith('calm_jax.')
    }
    for name in FOUNDATION
  }
  while graph:
    leaves = [name for name, needs in graph.items() if not needs & set(graph)]
    assert leaves, f'These import each other: {graph}'
    for name in leaves:
      del graph[name]


def test_a_helper_lives_with_its_caller():
  names = {path.stem for path in FILES}
  assert not names & {'utils', 'util', 'common', 'helpers', 'misc'}


def modules_under(prefix):
  names = [module_of(path) for path in FILES]
  found = [
    name for name in names if f'{name}.'.startswith(f'calm_jax.{prefix}.')
  ]
  assert found, f'calm_jax.{prefix} has moved; name its new place.'
  return found


def run_python(*lines):
  """Runs a program in a fresh interpreter; returns what it printed."""
  result = subprocess.run(
    [sys.executable, '-c', '\n'.join(lines)], capture_output=True, text=True
  )
  assert result.returncode == 0, result.stderr
  return result.stdout.split()


@pytest.mark.parametrize('prefix', NUMPY_ONLY)
def test_needs_no_accelerator_library(prefix):
  imported = run_python(
    f'import sys, {", ".join(["calm_jax", *modules_under(prefix)])}',
    f'print(*[name for name in {HEAVY} if name in sys.modules])',
  )
  assert imported == []


def test_metrics_and_calibration_run_without_accelerator_libraries():
  """Also the parts that are imported at first use."""
  printed = run_python(
    'import sys',
    'class Missing:',
    '  def find_spec(self, name, path=None, target=None):',
    f'    if name.split(".")[0] in {HEAVY}:',
    '      raise ModuleNotFoundError(name)',
    'sys.meta_path.insert(0, Missing())',
    'import numpy as np',
    'from calm_jax import calibration, text_metrics',
    'for metric in text_metrics.METRICS.values():',
    '  assert 0 <= metric("a word", "another word") <= 1',
    'outcome = calibration.calibrate(',
    '  np.zeros((50, 2)), [1.0, 0.5], tolerance=0.1, failure_prob=0.05)',
    'print(outcome.threshold)',
  )
  assert printed == ['0.5']
