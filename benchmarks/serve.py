"""One process per system, asked in turns: questions and answers as JSON lines.

    decode.py --{"do": "decode", "batch": 8, ...}--> process of one system
              <------{"seconds": 0.61, ...}---------

Each system keeps a process of its own, with its weights and compiled programs,
so that no library disturbs another and none is started twice. Only one of
them works at a time.
"""

import abc
import contextlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from typing import Any

ROOT = pathlib.Path(__file__).parents[1]
_QUESTIONS = ('open', 'prepare', 'source', 'decode')


class Unavailable(Exception):
  """A system's process ended; the message is all that it said."""


class Server(abc.ABC):
  """What a process answers."""

  @abc.abstractmethod
  def open(
    self, directory: str, new_tokens: int, threads: int
  ) -> dict[str, Any]:
    """Loads a model in Hugging Face's layout and its inputs.

    Args:
      directory: has inputs.npy too, [rows, source] token ids.
      new_tokens: length of every output.
      threads: to compute with.

    Returns:
      'versions' of the libraries.
    """

  @abc.abstractmethod
  def prepare(self, measure: str, batch: int) -> dict[str, Any]:
    """Compiles, or runs once; 'seconds' that took."""

  @abc.abstractmethod
  def source(self, batch: int) -> dict[str, Any]:
    """Times what is done once per sequence.

    Returns:
      'seconds' of encoder and source projections, and 'encoder_seconds' of the
      encoder alone or None; 'new_tokens' that were made meanwhile.
    """

  @abc.abstractmethod
  def decode(self, measure: str, exit: int, batch: int) -> dict[str, Any]:
    """Times one generation.

    Args:
      measure, exit: of our systems, see `programs`; others run all layers.
      batch: rows, the first ones of inputs.npy.

    Returns:
      'seconds', 'tokens' [batch, new_tokens]; 'includes_source' says whether
      the seconds do; 'layers' [L] tokens by their exit, for our systems.
    """


def answer_questions(server: Server) -> None:
  """The loop of a process; ends when no request comes any more."""
  # Libraries may print: what they print must not be taken for an answer.
  answers = os.fdopen(os.dup(1), 'w')
  os.dup2(2, 1)
  for line in sys.stdin:
    question = json.loads(line)
    name = question.pop('do')
    if name not in _QUESTIONS:
      raise ValueError(f'No question is called {name!r}, only {_QUESTIONS}.')
    answers.write(json.dumps(getattr(server, name)(**question)) + '\n')
    answers.flush()


class Process:
  """The other end: a running process of one system."""

  def __init__(self, python: str, module: str, *args: str):
    self._errors = tempfile.TemporaryFile('w+')
    self._process = subprocess.Popen(
      [python, '-m', module, *args],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=self._errors,
      text=True,
      cwd=ROOT,
    )

  def ask(self, do: str, **arguments) -> dict[str, Any]:
    """Asks and waits for the answer.

    Raises:
      Unavailable: the process has ended.
    """
    try:
      self._process.stdin.write(json.dumps({'do': do, **arguments}) + '\n')
      self._process.stdin.flush()
    except BrokenPipeError:
      pass  # The answer will be missing too.
    answer = self._process.stdout.readline()
    if not answer:
      self._process.wait()
      self._errors.seek(0)
      raise Unavailable(self._errors.read().strip() or 'it said nothing')
    return json.loads(answer)

  def close(self) -> None:
    """Lets the process end."""
    with contextlib.suppress(BrokenPipeError):  # It has ended by itself.
      self._process.stdin.close()
    self._process.wait()
    self._process.stdout.close()
    self._errors.close()
