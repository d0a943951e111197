"""What inference reads beside the splits of a task: a text file."""

import os
import pathlib
from collections.abc import Sequence

from calm_jax import errors
from calm_jax.data import corpus, file_tasks, task_examples


def read_file(path: str | os.PathLike, task: str) -> list[corpus.Example]:
  """A text a line, as the inputs of a task; targets are ''.

  Unlike the examples of a task, equal lines stay, in their order.

  Raises:
    ConfigError: unknown task.
    DataError: the file is missing, or a line is empty or not UTF-8.
  """
  info = task_examples.get_task(task)
  examples = []
  for number, text in file_tasks.lines(pathlib.Path(path).expanduser()):
    inputs = info.inputs_of(text)
    if not inputs.removeprefix(info.prefix).strip():
      raise file_tasks.broken_line(path, number, 'at least one word')
    examples.append(corpus.Example(str(number), inputs, ''))
  return examples


def checked(examples: Sequence[corpus.Example]) -> list[corpus.Example]:
  """The examples, whose texts UTF-8 can hold.

  Raises:
    DataError: one holds a lone surrogate, which no UTF-8 file can.
  """
  for example in examples:
    try:
      (example.inputs + example.targets).encode('utf-8')
    except UnicodeEncodeError as error:
      raise errors.DataError(
        f'The texts of an example must be valid Unicode; those of'
        f' {example.example_id} hold a lone surrogate. Mend it in the data.'
      ) from error
  return list(examples)
