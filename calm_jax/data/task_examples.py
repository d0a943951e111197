"""The examples of a task as text, whoever brought the task.

    built in (tasks, corpus)         --+
    files of the user (file_tasks)     |
    CALM's data sets (calm_tasks)      +--> load --> dump, arrays for training
    registered with seqio by the user --+

TensorFlow is imported for the last two only. `seqio_tasks` reads training
batches of all of them through seqio.
"""

import dataclasses
import hashlib
import json
import sys
from collections.abc import Mapping

from calm_jax import errors
from calm_jax.data import (
  arrays,
  corpus,
  splits,
  task_registry,
  tasks,
  vocabulary,
)


@dataclasses.dataclass(frozen=True)
class TaskExamples:
  """A split of a task.

  Attributes:
    info: the task.
    examples: ordered by id, so the first ones are a random sample.
    digest: names the data that they come from.
  """

  info: tasks.TaskInfo
  examples: list[corpus.Example]
  digest: str


def load(name: str, split: str) -> TaskExamples:
  """Examples of any task.

  Args:
    name: of a built-in task, an added one (`task_registry`), or one that an
      imported module has registered with seqio.
    split: one that the task has.

  Raises:
    ConfigError: unknown task or split.
    DataError: the data are missing or damaged.
  """
  info = get_task(name)
  if name in tasks.TASKS:
    examples = corpus.load_corpus(name, split)
    digest = corpus.read_manifest(corpus.ensure_corpus())['digest']
    return TaskExamples(info, examples, digest)
  if (task := task_registry.find(name)) is not None:
    examples = task.load(split)
  else:
    from calm_jax.data import seqio_examples

    examples = seqio_examples.load(name, split)
  return TaskExamples(info, examples, _digest(examples))


def check_split(name: str, split: str) -> None:
  """Refuses what no built-in task has before anything is read.

  Other tasks say so themselves when they load.

  Raises:
    ConfigError: unknown split.
  """
  if name in tasks.TASKS:
    splits.check(split)


def get_task(name: str) -> tasks.TaskInfo:
  """What is known of a task.

  Raises:
    ConfigError: unknown name; the message gives the nearest one.
  """
  if (info := find_task(name)) is not None:
    return info
  if (members := task_names(name)) != (name,):
    raise errors.ConfigError(
      f'{name} is a mixture, which cannot be decoded and judged as one task.'
      f' Take its tasks one by one: {", ".join(members)}.'
    )
  known = {*tasks.TASKS, *task_registry.names(), *_seqio_task_names()}
  raise errors.unknown_name('task', name, known)


def find_task(name: str) -> tasks.TaskInfo | None:
  """The same, and None where nothing is known."""
  if name in tasks.TASKS:
    return tasks.TASKS[name]
  if (task := task_registry.find(name)) is not None:
    return task.info
  if name in _seqio_task_names():
    from calm_jax.data import seqio_examples

    return seqio_examples.info_of(name)
  return None


def task_names(task_or_mixture: str) -> tuple[str, ...]:
  """The tasks of a mixture, built in or seqio's, or the one task itself."""
  if task_or_mixture == tasks.MIXTURE:
    return tuple(tasks.TASKS)
  # Whoever registers a mixture has imported seqio.
  if (seqio := sys.modules.get('seqio')) is not None:
    if task_or_mixture in seqio.MixtureRegistry.names():
      mixture = seqio.MixtureRegistry.get(task_or_mixture)
      return tuple(task.name for task in seqio.get_subtasks(mixture))
  return (task_or_mixture,)


def load_tokenized(
  task: str,
  split: str,
  *,
  vocabulary_path: str | None = None,
  lengths: Mapping[str, int] = arrays.TASK_FEATURE_LENGTHS,
  max_examples: int | None = None,
) -> arrays.TokenizedExamples:
  """`batches.load_tokenized` for every task that `load` knows.

  Args:
    task, split: as for `load`.
    vocabulary_path: SentencePiece model; the shipped one if None.
    lengths: greatest number of tokens of inputs and targets, EOS included.
    max_examples: keep the first ones only, which are a random sample.

  Raises:
    CalmError: as `load` and `vocabulary.Tokenizer`.
  """
  return arrays.tokenize(
    load(task, split).examples[:max_examples],
    vocabulary.default_tokenizer(vocabulary_path),
    lengths,
  )


def _seqio_task_names() -> list[str]:
  # Whoever registers a task has imported seqio.
  if 'seqio' not in sys.modules:
    return []
  import seqio

  return list(seqio.TaskRegistry.names())


def _digest(examples: list[corpus.Example]) -> str:
  content = json.dumps([dataclasses.astuple(x) for x in examples])
  return hashlib.sha256(content.encode('utf-8')).hexdigest()
