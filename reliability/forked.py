"""Stages of `calm` in processes that are cheap to start, and to kill.

A parent imports everything once and forks for each command, so that a command
costs its work only. The parent itself must compute nothing: a forked copy of
JAX's or TensorFlow's running threads would hang.
"""

import contextlib
import importlib
import os
import pathlib
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Sequence

_POLL = 0.005  # seconds
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def import_everything() -> None:
  """Imports what the stages import, and computes nothing.

  Raises:
    RuntimeError: JAX's backend was started by it.
  """
  warnings.filterwarnings('ignore', message='os.fork')
  names = ('train', 'dump', 'calibrate', 'infer', 'evaluate', 'report')
  for name in names:
    importlib.import_module(f'calm_jax.cli.{name}')
  from calm_jax.cli import native_logs

  native_logs.import_tensorflow()
  for name in (
    'checkpoints.orbax_io',
    'data.file_tasks',
    'dump.runner',
    'evaluation.evaluate',
    'inference.runner',
    'report.html',
    'training.loop',
    'config.gin_setup',
    'decode.generation',
  ):
    importlib.import_module(f'calm_jax.{name}')
  import jax

  if jax._src.xla_bridge.backends_are_initialized():
    raise RuntimeError('JAX must not have started before processes are forked.')


class Child:
  """A function in a process of its own, from a folder of its own.

  Attributes:
    code: its exit status, negative for a signal as in `subprocess`; None while
      it runs.
    seconds: since it began, or that it took.
  """

  def __init__(
    self,
    function: Callable[[], int | None],
    folder: pathlib.Path,
    log: pathlib.Path,
  ):
    self.code: int | None = None
    self._started = time.monotonic()
    sys.stdout.flush()
    sys.stderr.flush()
    self._pid = os.fork()
    if self._pid == 0:
      _run_and_leave(function, folder, log)

  def wait(self, seconds: float) -> bool:
    """Whether it ended within that time."""
    end = time.monotonic() + seconds
    while self.code is None:
      pid, status = os.waitpid(self._pid, os.WNOHANG)
      if pid:
        self.code = os.waitstatus_to_exitcode(status)
        self.seconds = time.monotonic() - self._started
      elif time.monotonic() >= end:
        return False
      else:
        time.sleep(_POLL)
    return True

  def send(self, number: int) -> None:
    """Sends it a signal, if it still runs."""
    if self.code is None:
      os.kill(self._pid, number)


def calm(argv: Sequence[str]) -> Callable[[], int | None]:
  """The console script with these arguments."""

  def run():
    from calm_jax.cli import main

    sys.argv = ['calm', *argv]
    return main.main(argv)

  return run


def _run_and_leave(function, folder, log):
  code = 1
  try:
    for number in _SIGNALS:
      signal.signal(number, signal.SIG_DFL)
    os.chdir(folder)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for descriptor in (1, 2):
      os.dup2(file, descriptor)
    code = function() or 0
  except BaseException:
    traceback.print_exc()
  finally:
    with contextlib.suppress(Exception):
      sys.stdout.flush()
      sys.stderr.flush()
    # Not sys.exit: what the parent still has to do is not the child's.
    os._exit(code)
