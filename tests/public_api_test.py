"""What `import calm_jax` offers, and at which cost."""

import ast
import pathlib
import subprocess
import sys

import pytest

import calm_jax

HEAVY = ('jax', 'flax', 'tensorflow', 'seqio', 'matplotlib', 'scipy')
LIGHT = sorted(
  set(calm_jax.__all__) - {'Generation', 'TextGenerator', 'load', '__version__'}
)


def heavy_after(code):
  """Which of `HEAVY` a fresh interpreter has imported after `code`."""
  loaded = f'print(*[x for x in {HEAVY} if x in sys.modules])'
  result = subprocess.run(
    [sys.executable, '-c', f'import sys\n{code}\n{loaded}'],
    capture_output=True,
    text=True,
    check=True,
  )
  return set(result.stdout.split())


def test_importing_it_is_cheap():
  assert heavy_after('import calm_jax; dir(calm_jax)') == set()


def test_calibration_and_errors_need_no_accelerator_library():
  code = f'from calm_jax import {", ".join(LIGHT)}'
  assert not heavy_after(code) & {'jax', 'flax', 'tensorflow', 'seqio'}


def test_every_name_is_there_and_no_other_is_shown():
  assert dir(calm_jax) == sorted(calm_jax.__all__)
  for name in calm_jax.__all__:
    found = getattr(calm_jax, name)
    assert name == '__version__' or found.__name__ == name


def test_the_stub_says_what_is_imported():
  stub = pathlib.Path(calm_jax.__file__).with_suffix('.pyi')
  homes = {
    statement.names[0].asname: statement.module
    for statement in ast.parse(stub.read_text()).body
    if isinstance(statement, ast.ImportFrom)
  }
  assert homes == {k: f'calm_jax.{v}' for k, v in calm_jax._HOMES.items()}
  assert stub.with_name('py.typed').is_file()


def test_another_name_is_an_error():
  with pytest.raises(AttributeError, match="no attribute 'generate'"):
    _ = calm_jax.generate
  with pytest.raises(ImportError, match='models'):
    from calm_jax import models  # noqa: F401
