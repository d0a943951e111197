"""The built-in text tasks: their prefixes, metrics and trivial baselines.

Free of TensorFlow. `seqio_tasks` registers the same names with seqio.
"""

import dataclasses
from collections.abc import Callable, Sequence

from calm_jax import errors
from calm_jax.data import prose
from calm_jax.metrics import text_metrics


@dataclasses.dataclass(frozen=True)
class TaskInfo:
  """A text task.

  Attributes:
    name: seqio task name.
    prefix: T5 style prefix of every input, with its trailing space.
    metrics: names in `text_metrics.METRICS`; the task is judged by
      the first.
    baseline: what the trivial baseline does, as printed in reports.
    predict: an input without its prefix -> the baseline's prediction.
  """

  name: str
  prefix: str
  metrics: tuple[str, ...]
  baseline: str
  predict: Callable[[str], str]

  @property
  def metric(self) -> str:
    return self.metrics[0]

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
  metrics=('chrf', 'exact_match'),
  baseline='input_copied',
  predict=str,
)
SUMMARIZATION = TaskInfo(
  name='docstring_summarization',
  prefix='summarize: ',
  metrics=('rouge_l',),
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
  raise errors.unknown_name('built-in task', name, TASKS)


def task_names(task_or_mixture: str) -> tuple[str, ...]:
  """The tasks of a mixture, or the one task itself.

  Raises:
    ConfigError: unknown name; the message gives the nearest one.
  """
  if task_or_mixture == MIXTURE:
    return tuple(TASKS)
  if task_or_mixture in TASKS:
    return (task_or_mixture,)
  raise errors.unknown_name(
    'built-in task or mixture', task_or_mixture, [*TASKS, MIXTURE]
  )


def metric_fns(task: TaskInfo) -> list[Callable[..., dict[str, float]]]:
  """T5X metric functions (targets, predictions) -> {name: mean times 100}."""
  return [_metric_fn(name) for name in task.metrics]


def _metric_fn(name: str) -> Callable[..., dict[str, float]]:
  metric = text_metrics.get_metric(name)

  def metric_fn(
    targets: Sequence[str], predictions: Sequence[str]
  ) -> dict[str, float]:
    scores = [
      metric(prediction, target)
      for target, prediction in zip(targets, predictions, strict=True)
    ]
    return {name: 100.0 * sum(scores) / max(len(scores), 1)}

  # seqio names a metric's plots after its function.
  metric_fn.__name__ = name
  return metric_fn
