"""Commands that must fail as the project promises.

Tests carry the number of their row in the project's list of faults; many rows
are tested beside the code that they are about: coverage_test finds them all.
"""

import pytest

from calm_jax.cli import main
from tests.cli.conftest import run_calibrate, short_corpus  # noqa: F401


@pytest.fixture
def fails(capsys):
  """Runs a command that must fail with one line; returns the line."""

  def call(code, *args):
    found = main.main([str(x) for x in args])
    captured = capsys.readouterr()
    assert found == code, captured.err
    assert captured.err.startswith(f'calm {args[0]}: error: ')
    assert captured.err.count('\n') == 1 and captured.err.endswith('\n')
    assert 'Traceback' not in captured.out + captured.err
    return captured.err

  return call
