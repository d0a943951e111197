"""docs/calibration.md: every block runs, every number in it is made anew."""

import contextlib
import io
import pathlib
import re
import shlex

import pytest
from testing import dumps

from calm_jax.calibration import choices
from calm_jax.calibration import risks as risks_module
from calm_jax.cli import main
from calm_jax.records import contracts
from docs import power_table

ROOT = pathlib.Path(__file__).parents[2]
TEXT = (ROOT / 'docs' / 'calibration.md').read_text(encoding='utf-8')
BLOCKS = re.findall(r'^```(\w*)\n(.*?)^```$', TEXT, re.MULTILINE | re.DOTALL)


def test_python_blocks_run_in_turn_and_print_what_is_shown():
  """A block without a language after a Python block is what it prints."""
  names, printed, compared = {}, None, 0
  for language, content in BLOCKS:
    if language == 'python':
      output = io.StringIO()
      with contextlib.redirect_stdout(output):
        exec(compile(content, 'docs/calibration.md', 'exec'), names)
      printed = output.getvalue()
    elif not language and printed:
      assert content == printed
      compared, printed = compared + 1, None
  assert compared == 3


COMMANDS = [
  shlex.split(content.replace('\\\n', ' '))
  for language, content in BLOCKS
  if language == 'sh' and content.startswith('calm ')
]


@pytest.mark.parametrize('command', COMMANDS, ids=' '.join)
def test_commands_run(command, tmp_path, monkeypatch, capsys):
  manifest, data = dumps.make_dump(200)
  dumps.write_dump(tmp_path / 'runs' / 'calibration_dump', manifest, [data])
  monkeypatch.chdir(tmp_path)
  assert main.main(command[1:]) == 0, capsys.readouterr().err
  contracts.read_json('runs/calibration.json', contracts.CalibrationResult)


def test_the_gin_file_aims_at_what_each_start_spends(
  tmp_path, monkeypatch, capsys
):
  (command,) = [x for x in COMMANDS if 'gin' in ' '.join(x)]
  test_commands_run(command, tmp_path, monkeypatch, capsys)
  result = contracts.read_json(
    'runs/calibration.json', contracts.CalibrationResult
  )
  assert str(result.procedure) == 'MultiStartFixedSequence(num_starts=2)'
  assert result.p_value.knobs['level'] == result.failure_prob / 2


def test_the_power_tables_are_those_that_the_command_prints():
  assert '\npython -m docs.power_table\n' in TEXT
  shown = TEXT.split('<!-- power tables -->\n')[1]
  assert shown.split('\n<!-- end of power tables -->')[0] == (
    power_table.tables()
  )


def test_every_choice_is_documented():
  for name in (*choices.PROCEDURES, *risks_module.CONSISTENCIES):
    assert f'`{name}`' in TEXT
  for name in choices.P_VALUES:
    assert f'`{name.removeprefix("rescaled_")}`' in TEXT
