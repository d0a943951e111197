"""A shared gin file may use what it is allowed to, and runs nothing before."""

import sys

import pytest

from calm_jax import errors
from calm_jax.cli import main
from calm_jax.config import gin_checks, gin_imports, gin_setup

SHIPPED = sorted(
  str(path.relative_to(gin_setup.gin_root()))
  for path in (gin_setup.gin_root() / 'gin').rglob('*.gin')
  if path.parent.name != 't5x'  # T5X's own scripts parse them.
)
DYNAMIC = 'from __gin__ import dynamic_registration\n'
# What gin does with each was seen: without the list, it runs the command.
ATTACKS = {
  'import': 'import os\nX = @os.system()\nos.system.command = "{command}"\n',
  'alias': (
    'import subprocess as s\nX = @s.getoutput()\ns.getoutput.cmd = "{command}"'
  ),
  'attribute': (
    'from calm_jax.training import loop\nX = @loop.os.popen()\n'
    'loop.os.popen.cmd = "{command}"\n'
  ),
  'reference': (
    'from calm_jax.training import loop\nX = {{"a": [@a/loop.os.popen()]}}\n'
  ),
  'block': 'from calm_jax.training import loop\nloop.os.popen:\n  cmd = "x"\n',
  'another part of calm_jax': (
    'from calm_jax.records import json_records\n'
    'X = @json_records.write_bytes_atomically()\n'
  ),
  'the same by attribute': (
    'from calm_jax.training import loop\n'
    'X = @loop.json_records.write_bytes_atomically()\n'
  ),
  'text': 'METRIC = "subprocess:getoutput"\n',
  'text inside': 'X = {{"a": ("b", ["\u00e9vil.module:f"])}}\n',
  'dunder': (
    'from calm_jax.training import loop\nX = @loop.train.__globals__()\n'
  ),
  'gin itself': 'X = @gin.macro.__globals__.clear()\n',
  'a name that begins alike': 'import jsonish\n',
}


@pytest.fixture
def check(tmp_path, monkeypatch):
  """Parses a text with the list `allowed`; returns the error's message."""
  monkeypatch.chdir(tmp_path)

  def call(text, allowed='json', name='shared.gin'):
    (tmp_path / name).write_text(text, encoding='utf-8')
    with pytest.raises(errors.ConfigError) as caught:
      gin_setup.parse([name], [], allow_imports=allowed)
    return str(caught.value)

  return call


@pytest.mark.parametrize('name', SHIPPED)
def test_shipped_files_need_no_permission(name):
  gin_imports.AllowedImports((), gin_setup.gin_root()).check(
    gin_setup.gin_root() / name, lambda x: gin_setup.gin_root() / x
  )


@pytest.mark.parametrize('attack', ATTACKS)
def test_fault_65_an_import_outside_of_the_list_never_runs(
  attack, check, tmp_path
):
  text = ATTACKS[attack].format(command=f'touch {tmp_path}/owned')
  message = check(DYNAMIC + text)
  assert message.startswith('shared.gin:') or '/shared.gin:' in message
  assert 'but --gin_allow_imports allows json' in message
  assert not (tmp_path / 'owned').exists()


def test_fault_65_by_command_with_the_line(tmp_path, capsys, monkeypatch):
  monkeypatch.chdir(tmp_path)
  marker = tmp_path / 'owned'
  (tmp_path / 'evil.py').write_text(f'import os\nos.mkdir({str(marker)!r})\n')
  (tmp_path / 'part.gin').write_text('\n\nimport evil  # not what it seems\n')
  (tmp_path / 'shared.gin').write_text('X = 1\ninclude "part.gin"\n')
  args = ['calibrate', '--gin_file=shared.gin', '--dump_dir=d', '--output=o']
  assert main.main([*args, '--gin_allow_imports=']) == 2
  message = capsys.readouterr().err
  assert 'part.gin:3: `import evil  # not what it seems`' in message
  assert 'allows nothing beside' in message and message.count('\n') == 1
  assert not marker.exists() and 'evil' not in sys.modules
  # The file does what it likes where nothing is said: see docs/reliability.md.
  assert main.main(args) == 2
  assert marker.exists()
  del sys.modules['evil']


def test_allowed_modules_and_what_is_below_them(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'my_project').mkdir()
  (tmp_path / 'my_project' / 'sizes.py').write_text(
    'def size(x=2):\n  return x\n'
  )
  (tmp_path / 'mine.gin').write_text(
    DYNAMIC + 'import my_project.sizes\nSIZE = @my_project.sizes.size()\n'
    'my_project.sizes.size.x = 3\nMETRIC = "my_project.sizes:size"\n'
    'include "gin/models/t5_1_1_tiny.gin"\n'
  )
  gin_setup.parse(
    ['mine.gin'],
    [],
    stage_macros={'SIZE', 'METRIC'},
    allow_imports=' my_project, seqio',
  )
  assert gin_setup.macro('SIZE') == 3
  assert gin_checks.macro_values()['METRIC'] == 'my_project.sizes:size'


def test_files_that_are_no_gin_are_told_as_ever(check):
  assert 'is not gin' in check('this is = not = gin\n')
  assert 'must exist in one of' in check('include "gin/no.gin"\n')


def test_a_list_must_be_names(check):
  assert 'names of modules' in check('X = 1\n', allowed='os;system')
