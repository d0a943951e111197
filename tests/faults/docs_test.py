"""The commands in docs/reliability.md leave with the code that stands there."""

import pathlib
import re
import shlex

import pytest
from testing import dumps

from calm_jax.cli import loading

PAGE = pathlib.Path(__file__).parents[2] / 'docs' / 'reliability.md'
TINY = ('--gin_file=gin/experiments/tiny.gin', '--gin.MODEL_DIR="runs/tiny"')
# Whole commands; those of several steps, or with an ellipsis, are read only.
ROW = re.compile(r'^\| (\d+) \|.*\| 2 \|.*\| `calm ([^`;|&]+)` \|$', re.M)
COMMANDS = {
  number: command
  for number, command in ROW.findall(PAGE.read_text(encoding='utf-8'))
  if '...' not in command
}


def test_there_are_commands():
  assert len(COMMANDS) > 15


@pytest.mark.parametrize('number', COMMANDS)
def test_a_command_fails_as_the_page_says(
  number, short_corpus, fails, tmp_path, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(loading, 'load', None)  # Seen before a model is loaded.
  (tmp_path / 'shared.gin').write_text('import os\n')
  args = [
    part
    for word in shlex.split(COMMANDS[number])
    for part in (TINY if word == 'tiny' else (word,))
  ]
  if number in ('7', '12'):
    manifest, data = dumps.make_dump(40)
    dumps.write_dump(tmp_path / 'runs' / 'dump', manifest, [data])
  message = fails(2, *args)
  assert 'shared.gin' not in message or 'imports os' in message
