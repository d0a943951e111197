"""The examples of a user's own seqio task as text. Imports seqio."""

import seqio

from calm_jax import errors
from calm_jax.data import corpus, task_registry


def load(name: str, split: str) -> list[corpus.Example]:
  """Examples of a split, before they are cut, ordered by id.

  Texts are what the task tokenizes, where it keeps them (`inputs_pretokenized`,
  as `seqio.preprocessors.tokenize` does); else its tokens, decoded. Equal
  examples are one.

  Args:
    name: of a task in seqio's registry, not of a mixture.
    split: one that the task has.

  Raises:
    ConfigError: the task has no such split.
    DataError: it has no examples.
  """
  task = seqio.TaskRegistry.get(name)
  if split not in task.splits:
    raise errors.unknown_name(f'split of {name}', split, task.splits)
  dataset = task.get_dataset(sequence_length=None, split=split, shuffle=False)
  examples = []
  for features in dataset.as_numpy_iterator():
    inputs, targets = (
      _text(features, key, task.output_features[key].vocabulary)
      for key in ('inputs', 'targets')
    )
    example_id = task_registry.example_id_of(inputs, targets)
    examples.append(corpus.Example(example_id, inputs, targets))
  if not examples:
    raise errors.DataError(
      f'The split {split!r} of {name} must hold examples; it is empty.'
    )
  return task_registry.distinct(examples)


def _text(features, key: str, vocabulary: seqio.Vocabulary) -> str:
  text = features.get(f'{key}_pretokenized')
  if isinstance(text, bytes):
    return text.decode('utf-8')
  return vocabulary.decode(features[key].tolist())
