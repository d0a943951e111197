"""docs/tpu.md: its commands pass the scripts' checks, its files exist."""

import pathlib
import re
import shlex

import pytest

ROOT = pathlib.Path(__file__).parents[2]
TEXT = (ROOT / 'docs' / 'tpu.md').read_text(encoding='utf-8')
BLOCKS = re.findall(r'^```sh\n(.*?)^```$', TEXT, re.MULTILINE | re.DOTALL)
COMMANDS = [
  shlex.split(line)
  for block in BLOCKS
  for line in block.replace('\\\n', ' ').splitlines()
  if line.startswith('tpu_scripts/')
]


@pytest.mark.parametrize('command', COMMANDS, ids=' '.join)
def test_commands_pass_their_checks(cloud, command):
  script = pathlib.Path(command[0]).stem
  assert 'gcloud ' in cloud.run(script, '--dry_run', *command[1:])


def test_all_scripts_and_files_named_exist():
  named = re.findall(r'(?:gin|tpu_scripts|tests)/[\w./]*\w', TEXT)
  assert len(named) > 10
  assert not [name for name in named if not (ROOT / name).exists()]
  described = set(re.findall(r'^\| `(\w+\.sh)`', TEXT, re.MULTILINE))
  assert described == {x.name for x in (ROOT / 'tpu_scripts').glob('*.sh')}
