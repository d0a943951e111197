"""The shape of the package, checked by machine: who may import whom.

`ast` reads the imports, so nothing is executed; one subprocess per room
proves that everything below the dump works without JAX and TensorFlow.
"""

import ast
import graphlib
import pathlib
import re
import subprocess
import sys
import tomllib

import pytest

import calm_jax

PACKAGE = pathlib.Path(calm_jax.__file__).parent

# Data flows down this list; imports point up it.
ROOMS = (
  'errors',
  'records',
  'metrics',
  'display',
  't5',
  'parallel',
  'early_exit.engine',
  'early_exit.measures',
  'data',
  'checkpoints',
  'config',
  'decode',
  'training',
  't5x',
  'dump',
  'inference',
  'calibration',
  'validation',
  'evaluation',
  'report',
  'study',
  'doctor',
  'cli',
)
# They run without JAX, Flax, seqio and TensorFlow.
NUMPY_ONLY = (
  'errors',
  'records',
  'metrics',
  'display',
  'dump.reader',
  'calibration',
  'validation',
  'evaluation',
  'report',
)
HEAVY = ('jax', 'jaxlib', 'flax', 'tensorflow', 'seqio', 'torch')


def module_of(path):
  """'calm_jax/t5/layers.py' -> 't5.layers'; a room's __init__ is the room."""
  parts = path.relative_to(PACKAGE).with_suffix('').parts
  return '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)


FILES = {module_of(path): path for path in sorted(PACKAGE.rglob('*.py'))}


def room_of(module):
  """'t5.layers' -> 't5'; None for what only holds rooms."""
  found = [x for x in ROOMS if f'{module}.'.startswith(f'{x}.')]
  return found[0] if found else None


def imported_modules(path):
  """Modules of calm_jax that a file imports, at any depth of its code."""
  for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
    if isinstance(node, ast.Import):
      names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, f'{path} must import by absolute names.'
      names = [f'{node.module}.{alias.name}' for alias in node.names]
    else:
      continue
    for name in names:
      if name.startswith('calm_jax.'):
        inside = name.removeprefix('calm_jax.')
        yield inside if inside in FILES else inside.rpartition('.')[0]


GRAPH = {module: set(imported_modules(path)) for module, path in FILES.items()}


@pytest.mark.parametrize('module', FILES)
def test_imports_point_one_way(module):
  room = room_of(module)
  if room is None:
    assert module in ('', 'early_exit'), f'{module} must be in a room.'
    assert not GRAPH[module], f'{FILES[module]} must stay light.'
    return
  allowed = ROOMS[: ROOMS.index(room) + 1]
  outside = {x for x in GRAPH[module] if room_of(x) not in allowed}
  assert not outside, f'{module} may not import {outside}.'


def test_no_two_modules_import_each_other():
  sorter = graphlib.TopologicalSorter(GRAPH)
  sorter.prepare()  # Raises a CycleError that names them.


def test_every_room_has_modules():
  assert {room_of(x) for x in FILES} - {None} == set(ROOMS)


def test_a_helper_lives_with_its_caller():
  names = {path.stem for path in FILES.values()}
  assert not names & {'utils', 'util', 'common', 'helpers', 'misc'}


def test_no_module_looks_like_a_test():
  named = [x for x in FILES if x.endswith('_test') or 'test_' in x]
  assert not named, 'pytest and readers would take these for tests.'


def names_used(path):
  """(module, name) that a file takes from modules of calm_jax, and its own."""
  tree = ast.parse(path.read_text(encoding='utf-8'))
  known = {
    alias.asname or alias.name: f'{node.module}.{alias.name}'
    for node in ast.walk(tree)
    if isinstance(node, ast.ImportFrom)
    for alias in node.names
  }
  me = module_of(path) if path.is_relative_to(PACKAGE) else None
  for name in known.values():
    yield tuple(name.removeprefix('calm_jax.').rpartition('.')[::2])
  for top in tree.body:
    for node in ast.walk(top):
      if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        module = known.get(node.value.id, '').removeprefix('calm_jax.')
        yield module, node.attr
      # A function that calls itself is not thereby used.
      elif isinstance(node, ast.Name) and node.id != getattr(top, 'name', ''):
        yield me, node.id


def test_nothing_public_is_there_for_tests_alone():
  """A function or class is used by the package, its tools, gin or a reader."""
  root = PACKAGE.parent
  tools = [
    path
    for folder in ('benchmarks', 'reliability', 'docs')
    for path in (root / folder).rglob('*.py')
  ]
  used = {x for path in (*FILES.values(), *tools) for x in names_used(path)}
  told = '\n'.join(
    path.read_text(encoding='utf-8')
    for pattern in (
      'README.md',
      'docs/**/*.md',
      'docs/**/*.ipynb',
      'gin/**/*.gin',
    )
    for path in root.glob(pattern)
  )
  words = set(re.findall(r'\w+', told))
  unused = [
    f'{module}.{node.name}'
    for module, path in FILES.items()
    if room_of(module) != 'cli'  # Its functions are found by their stage.
    for node in ast.parse(path.read_text(encoding='utf-8')).body
    if isinstance(node, ast.FunctionDef | ast.ClassDef)
    and not node.name.startswith('_')
    and (module, node.name) not in used
    and node.name not in words
  ]
  assert not unused


def modules_under(prefix):
  found = [x for x in FILES if f'{x}.'.startswith(f'{prefix}.')]
  assert found, f'calm_jax.{prefix} has moved; name its new place.'
  return [f'calm_jax.{x}' for x in found]


def run_python(*lines):
  """Runs a program in a fresh interpreter; returns what it printed."""
  result = subprocess.run(
    [sys.executable, '-c', '\n'.join(lines)], capture_output=True, text=True
  )
  assert result.returncode == 0, result.stderr
  return result.stdout.split()


def test_mypy_leaves_out_only_what_uses_jax():
  settings = tomllib.loads((PACKAGE.parent / 'pyproject.toml').read_text())
  ignored = [
    name.removeprefix('calm_jax.').removesuffix('.*')
    for override in settings['tool']['mypy']['overrides']
    if override.get('ignore_errors')
    for name in override['module']
  ]
  assert ignored, 'Is the list of pyproject.toml no longer needed?'
  for name in ignored:
    modules_under(name)  # It exists.
    assert not any(f'{x}.'.startswith(f'{name}.') for x in NUMPY_ONLY), name


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
    'from calm_jax import calibration',
    'from calm_jax.metrics import text_metrics',
    'for metric in text_metrics.METRICS.values():',
    '  assert 0 <= metric("a word", "another word") <= 1',
    'outcome = calibration.calibrate(',
    '  np.zeros((50, 2)), [1.0, 0.5], tolerance=0.1, failure_prob=0.05)',
    'print(outcome.threshold)',
  )
  assert printed == ['0.5']
