"""The built-in text tasks: their prefixes, metrics and trivial baselines.

Free of TensorFlow. `seqio_tasks` registers the same names with seqio.
"""

import dataclasses
import difflib
from collections.abc import Callable

from calm_jax import errors
from calm_jax.data import prose


@dataclasses.dataclass(frozen=True)
class TaskInfo:
  """A text task.

  Attributes:
    name: seqio task name.
    prefix: T5 style prefix of every input, with its trailing space.
    metric: name in `calm_jax.text_metrics.METRICS` that the task is judged by.
    baseline: what the trivial baseline does, as printed in reports.
    predict: an input without its prefix -> the baseline's prediction.
  """

  name: str
  prefix: str
  metric: str
  baseline: str
  predict: Callable[[str], str]

  def baseline_prediction(self, inputs: str) -> str:
    """The baseline's prediction for `inputs`, with or without the prefix."""
    return self.predict(inputs.removeprefix(self.prefix))

  def inputs_of(self, text: str) -> str:
    """A user's raw text as this task's model input, prefix included."""
    if self is RESTORATION:
      text = prose.plain_words(text)
    return self.prefix + ' '.join(text.split())


def _first_sentence(text: str) -> str:
  _, separator, rest = text.partition(f'{prose.SEPARATOR} ')
  return prose.split_sentences(rest if separator else text)[0]


RESTORATION = TaskInfo(
  name='docstring_restoration',
  prefix='restore: ',
  metric='chrf',
  baseline='input_copied',
  predict=str,
)
SUMMARIZATION = TaskInfo(
  name='docstring_summarization',
  prefix='summarize: ',
  metric='rouge_l',
  baseline='first_sentence',
  predict=_first_sentence,
)
TASKS = {task.name: task for task in (RESTORATION, SUMMARIZATION)}

# The mixture of all tasks.
MIXTURE = 'docstrings'


def get_task(name: str) -> TaskInfo:
  """Looks a task up.

  Raises:
    ConfigError: unknown name; the message gives the nearest one.
  """
  if name in TASKS:
    return TASKS[name]
  raise errors.ConfigError(f'Unknown task {name!r}. {_known(name, TASKS)}')


def task_names(task_or_mixture: str) -> tuple[str, ...]:
  """The tasks of a mixture, or the one task itself.

  Raises:
    ConfigError: unknown name; the message gives the nearest one.
  """
  if task_or_mixture == MIXTURE:
    return tuple(TASKS)
  if task_or_mixture in TASKS:
    return (task_or_mixture,)
  names = [*TASKS, MIXTURE]
  raise errors.ConfigError(
    f'Unknown task or mixture {task_or_mixture!r}.'
    f' {_known(task_or_mixture, names)}'
  )


def _known(name: str, names) -> str:
  near = difflib.get_close_matches(name, names, n=1, cutoff=0)
  return f'Did you mean {near[0]!r}? Known: {", ".join(names)}.'
