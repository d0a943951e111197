"""Tasks that are not built in: what they are, and those that gin files add.

CALM's are in `calm_tasks`; `file_tasks.register` and its like add others;
`task_registry` finds both. Free of TensorFlow.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from typing import Protocol

from calm_jax import errors
from calm_jax.data import corpus, tasks


class TextTask(Protocol):
  """A task that is not built in."""

  @property
  def info(self) -> tasks.TaskInfo:
    """What it is called and how it is judged."""

  def load(self, split: str) -> list[corpus.Example]:
    """Examples of a split, as `distinct` orders them."""

  def add_to_seqio(self) -> None:
    """Registers the task with seqio; replaces one of its name."""


_added: dict[str, TextTask] = {}


def add(task: TextTask) -> str:
  """Registers a task and returns its name; it replaces one of that name.

  Raises:
    ConfigError: the name is that of a built-in task, or cannot be that of a
      file.
  """
  name = task.info.name
  if not name or name in (*tasks.TASKS, tasks.MIXTURE):
    raise errors.ConfigError(
      f'A task must have a name that no built-in task has, got {name!r}.'
    )
  # Files of results are named after it. The rule is seqio's.
  if not re.fullmatch(r'\w[\w.:-]*', name):
    raise errors.ConfigError(
      'The name of a task must be made of letters, digits, and _ . : -, and'
      f' begin with one of the first three, got {name!r}.'
    )
  _added[name] = task
  return name


def example_id_of(*texts: str) -> str:
  """Hash of texts, letter by letter, as `splits.split_of` takes it."""
  content = json.dumps(texts).encode('utf-8')
  return hashlib.sha256(content).hexdigest()[:16]


def distinct(examples: Iterable[corpus.Example]) -> list[corpus.Example]:
  """The examples ordered by id; those of one id are one example.

  Ids are hashes, so that the order is a random one, and the same everywhere.
  """
  found = {example.example_id: example for example in examples}
  return [found[example_id] for example_id in sorted(found)]


def added() -> Mapping[str, TextTask]:
  """The tasks that were added, by name."""
  return dict(_added)
