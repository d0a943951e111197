"""Tasks that are not built in, by name: what `task_examples` looks up.

CALM's, as `calm_tasks` has them, and what gin files add by
`file_tasks.register` and `calm_tasks.register`. Free of TensorFlow.
"""

import hashlib
import json
import re
from collections.abc import Iterable
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
    """Registers the task with seqio under its name, or anew."""


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


def find(name: str) -> TextTask | None:
  """The task of that name; None if there is none."""
  return _all().get(name)


def names() -> list[str]:
  """Names of all of them."""
  return sorted(_all())


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


def _all() -> dict[str, TextTask]:
  from calm_jax.data import calm_tasks

  return {**calm_tasks.TASKS, **_added}
