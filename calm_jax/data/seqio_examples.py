"""The examples of a user's own seqio task as text. Imports seqio."""

import warnings

import seqio

from calm_jax import errors
from calm_jax.data import corpus, seqio_tasks, tasks, text_tasks
from calm_jax.metrics import text_metrics

# T5's metric functions of whole splits (t5.evaluation.metrics) -> those of one
# output that stand in for them. Ours keep their own names.
_PER_EXAMPLE = {
  'accuracy': ('exact_match',),
  'bleu': ('sentence_bleu',),
  'rouge': ('rouge_l', 'rouge_1', 'rouge_2'),
  'rouge_mean': ('rouge_l', 'rouge_1', 'rouge_2'),
  'sequence_accuracy': ('exact_match',),
  'squad': ('squad_f1', 'squad_exact_match'),
  'trivia_qa': ('squad_f1', 'squad_exact_match'),
  **{name: (name,) for name in text_metrics.METRICS},
}
_FALLBACK = ('chrf',)


def info_of(name: str) -> tasks.TaskInfo:
  """What seqio knows of a task; chrF where its metrics judge whole splits only.

  Nothing in seqio says what the prefix is, so the baseline copies it too.
  """
  known = (_PER_EXAMPLE.get(x, ()) for x in _metric_names(name))
  metrics = tuple(dict.fromkeys(x for names in known for x in names))
  return tasks.TaskInfo(name, '', metrics or _FALLBACK, 'input_copied', str)


def _metric_names(name: str) -> list[str]:
  functions = seqio.TaskRegistry.get(name).metric_fns
  # functools.partial keeps its function as `func`.
  bare = (getattr(function, 'func', function) for function in functions)
  return [getattr(function, '__name__', '') for function in bare]


def load(name: str, split: str) -> list[corpus.Example]:
  """Examples of a split, before they are cut, ordered by id.

  Texts are what the task tokenizes, where it keeps them (`inputs_pretokenized`,
  as `seqio.preprocessors.tokenize` does); else its tokens, decoded. Equal
  examples are one.

  Args:
    name: of a task in seqio's registry, not of a mixture.
    split: one that the task has.

  Raises:
    ConfigError: the task has no such split, or no inputs.
    DataError: it has no examples.
  """
  task = seqio.TaskRegistry.get(name)
  seqio_tasks.check_features(name, task.output_features)
  if split not in task.splits:
    raise errors.unknown_name(f'split of {name}', split, task.splits)
  dataset = task.get_dataset(sequence_length=None, split=split, shuffle=False)
  examples = []
  for features in dataset.as_numpy_iterator():
    inputs, targets = (
      _text(features, key, task.output_features[key].vocabulary)
      for key in ('inputs', 'targets')
    )
    example_id = text_tasks.example_id_of(inputs, targets)
    examples.append(corpus.Example(example_id, inputs, targets))
  if not any(x in _PER_EXAMPLE for x in _metric_names(name)):
    warnings.warn(
      f'{name} is judged by {_FALLBACK[0]}, for no metric of its own'
      f' ({", ".join(_metric_names(name)) or "it has none"}) is known to judge'
      ' one output; --metric of calm calibrate chooses another.',
      stacklevel=2,
    )
  if not examples:
    raise errors.DataError(
      f'The split {split!r} of {name} must hold examples; it is empty.'
    )
  return text_tasks.distinct(examples)


def _text(features, key: str, vocabulary: seqio.Vocabulary) -> str:
  text = features.get(f'{key}_pretokenized')
  if isinstance(text, bytes):
    return text.decode('utf-8')
  return vocabulary.decode(features[key].tolist())
