"""The command as a user meets it: exit codes, streams, what is imported."""

import os
import subprocess
import sys

import pytest

from calm_jax import errors
from calm_jax.cli import main

HEAVY = ('jax', 'tensorflow', 'flax', 'seqio', 'matplotlib', 'gin')


def run_python(code, **kwargs):
  return subprocess.run(
    [sys.executable, '-c', code], text=True, capture_output=True, **kwargs
  )


@pytest.fixture
def failing_stage(monkeypatch):
  """Makes `calm report` raise; returns a function that runs it."""
  from calm_jax.cli import report

  def run(error, *args):
    def raise_error(parsed):
      raise error

    monkeypatch.setattr(report, 'run', raise_error)
    return main.main(['report', *args])

  return run


def test_help_names_every_stage(capsys):
  assert main.main(['--help']) == 0
  printed = capsys.readouterr().out
  assert all(f'  {stage}' in printed for stage in main.STAGES)


def test_no_stage_is_an_error_with_help(capsys):
  assert main.main([]) == 2
  assert 'usage: calm STAGE' in capsys.readouterr().out


def test_version(capsys):
  assert main.main(['--version']) == 0
  assert capsys.readouterr().out.startswith('calm_jax 0.')


@pytest.mark.parametrize('stage', main.STAGES)
def test_every_stage_has_help(stage, capsys):
  assert main.main([stage, '--help']) == 0
  printed = capsys.readouterr().out
  assert f'calm {stage}' in printed and '--gin_file' in printed


def test_unknown_stage_gives_the_nearest(capsys):
  assert main.main(['calibrat']) == 2
  message = capsys.readouterr().err
  assert "unknown stage 'calibrat'. Did you mean calibrate?" in message
  assert message.count('\n') == 1


@pytest.mark.parametrize('stage', main.STAGES)
def test_unknown_flag_is_one_line(stage, capsys):
  assert main.main([stage, '--no_such_flag=3']) == 2
  captured = capsys.readouterr()
  assert captured.err.startswith(f'calm {stage}: error: Unknown flag --no_such')
  assert captured.err.count('\n') == 1 and not captured.out


@pytest.mark.parametrize(
  ('error', 'code'),
  [
    (errors.ConfigError('A sentence.'), 2),
    (errors.DataError('A sentence.'), 3),
    (errors.ResourceError('A sentence.'), 4),
    (errors.NumericError('A sentence.'), 5),
    (PermissionError(13, 'A sentence.', '/x'), 4),
  ],
)
def test_an_error_is_one_line_and_its_code(error, code, failing_stage, capsys):
  assert failing_stage(error) == code
  captured = capsys.readouterr()
  assert captured.err.startswith('calm report: error: ')
  assert 'A sentence.' in captured.err and 'Traceback' not in captured.err


def test_a_traceback_is_for_those_who_ask(failing_stage, capsys):
  assert failing_stage(errors.DataError('A sentence.'), '--v=1') == 3
  assert 'Traceback' in capsys.readouterr().err


def test_a_bug_is_not_hidden(failing_stage):
  with pytest.raises(ZeroDivisionError):
    failing_stage(ZeroDivisionError())


def test_gin_s_addition_to_a_message_is_dropped():
  error = errors.DataError("No.\n  In call to configurable 'train' (<f>)")
  assert main.message_of(error) == 'No.'


def test_long_lists_are_cut():
  error = errors.DataError('\n'.join(['Wrong.', *map(str, range(40))]))
  lines = main.message_of(error).splitlines()
  assert len(lines) == 12 and lines[-2:] == [
    '9',
    '  and 30 more; --v=1 shows all',
  ]


def test_interrupt(failing_stage, capsys):
  assert failing_stage(KeyboardInterrupt()) == 130
  assert capsys.readouterr().err == 'calm report: interrupted.\n'


def test_saved_after_a_signal_keeps_its_code(failing_stage):
  assert failing_stage(SystemExit(143)) == 143


def test_fault_67_a_closed_pipe_is_quiet():
  code = (
    'import sys; from calm_jax.cli import main\n'
    'main._run_stage = lambda *_: print("x" * 100000) or 0\n'
    'sys.exit(main.main(["report"]))'
  )
  reader, writer = os.pipe()
  os.close(reader)
  done = subprocess.run(
    [sys.executable, '-c', code], stdout=writer, stderr=subprocess.PIPE
  )
  os.close(writer)
  assert done.returncode == 1 and done.stderr == b''


def test_light_stages_import_nothing_heavy(tmp_path):
  code = f"""
import sys
from calm_jax.cli import main
assert main.main(['--help']) == 0
for stage in main.STAGES:
  assert main.main([stage, '--help']) == 0, stage
  assert main.main([stage, '--nonsense']) == 2, stage
loaded = [name for name in {HEAVY} if name in sys.modules]
assert not loaded, loaded
assert main.main(['calibrate', '--dump_dir=no', '--output=no.json']) == 3
assert main.main(['report', '--calibration=no', '--evaluation=no',
                  '--output_dir=no']) == 3
loaded = [name for name in {HEAVY[:4]} if name in sys.modules]
assert not loaded, loaded
"""
  done = run_python(code, cwd=tmp_path)
  assert done.returncode == 0, done.stderr
  assert not list(tmp_path.iterdir())
