"""The built-in tasks for seqio, and training batches read through seqio.

The way for users who bring their own seqio tasks and mixtures, chosen by
gin/runs/train_seqio.gin; `batches` gives the same arrays of the built-in tasks
without TensorFlow. seqio and TensorFlow are imported inside the functions, so
this module itself imports anywhere.
"""

import dataclasses
import difflib
import functools
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np

from calm_jax import errors
from calm_jax.data import (
  arrays,
  corpus,
  saved_iterator,
  splits,
  task_registry,
  tasks,
  vocabulary,
)


def register(
  vocabulary_path: str | os.PathLike | None = None,
  *,
  source: corpus.Source | None = None,
  cache_dir: pathlib.Path | None = None,
) -> None:
  """Registers every task of `tasks.TASKS` and their mixture with seqio.

  A second call replaces them, so that another vocabulary can be chosen. The
  corpus is built only when a data set is asked for.

  Args:
    vocabulary_path: SentencePiece model; the shipped one if None.
    source: what the corpus is read from; the installed packages if None.
    cache_dir: where the corpus is kept; the default folder if None.

  Raises:
    DataError: the vocabulary is missing or damaged.
  """
  import seqio

  # A mixture refers to its tasks, so it leaves first.
  _remove(seqio.MixtureRegistry, tasks.MIXTURE)
  for task in tasks.TASKS.values():
    load = functools.partial(
      corpus.load_corpus, task.name, source=source, cache_dir=cache_dir
    )
    register_examples(task, load, tuple(splits.SPLITS), vocabulary_path)
  # Each example is as likely as any other, whatever its task.
  seqio.MixtureRegistry.add(
    tasks.MIXTURE,
    list(tasks.TASKS),
    default_rate=lambda task: float(
      len(
        corpus.load_corpus(
          task.name, 'train', source=source, cache_dir=cache_dir
        )
      )
    ),
  )


def register_examples(
  task: tasks.TaskInfo,
  load: Callable[[str], Sequence[corpus.Example]],
  split_names: Sequence[str],
  vocabulary_path: str | os.PathLike | None = None,
) -> None:
  """Registers examples that fit in memory with seqio; replaces the task.

  Args:
    task: its name and metrics.
    load: gives the examples of a split; called when they are asked for.
    split_names: splits that it knows.
    vocabulary_path: SentencePiece model; the shipped one if None.

  Raises:
    DataError: the vocabulary is missing or damaged.
  """
  import seqio

  feature = seqio.Feature(vocabulary.load_vocabulary(vocabulary_path))
  _remove(seqio.TaskRegistry, task.name)
  seqio.TaskRegistry.add(
    task.name,
    source=seqio.FunctionDataSource(
      _dataset_fn(load), splits=tuple(split_names)
    ),
    preprocessors=[
      seqio.preprocessors.tokenize,
      seqio.preprocessors.append_eos_after_trim,
    ],
    output_features={'inputs': feature, 'targets': feature},
    metric_fns=tasks.metric_fns(task),
  )


@dataclasses.dataclass(frozen=True, kw_only=True)
class SeqioBatches:
  """Endless shuffled training batches of any registered task or mixture.

  What `training.loop.train` takes: called with a step, it gives the batches
  from there on. The stream depends on `seed` alone, so a resumed run goes on as
  an uninterrupted one: from the place saved with the checkpoint, or where there
  is none, by reading the skipped batches and throwing them away.

  Attributes:
    mixture_or_task_name: registered with seqio; ours register themselves.
    split: a split of the task or mixture.
    task_feature_lengths: greatest number of tokens of inputs and targets, EOS
      included; every batch is padded to them.
    batch_size: rows of a batch.
    seed: of the order.
    vocab_size: rows of the model's embedding, which must hold every token of
      the task's vocabulary; None does not check.
  """

  mixture_or_task_name: str
  split: str = 'train'
  task_feature_lengths: Mapping[str, int]
  batch_size: int
  seed: int = 0
  vocab_size: int | None = None

  def __call__(self, start_step: int = 0) -> Iterator[arrays.Batch]:
    """Batches of step `start_step` and later, as `arrays.to_batch` makes them.

    Raises:
      ConfigError: unknown task, mixture or split; a task without inputs; a
        bad feature length; a vocabulary larger than `vocab_size`.
    """
    return self.share_from(start_step, 0, 1)

  def share_from(
    self,
    start_step: int,
    shard_id: int,
    num_shards: int,
    saved_at: str | os.PathLike | None = None,
  ) -> saved_iterator.SavedIterator:
    """One reader's rows of each batch, from its shard of the data alone.

    As in T5X, another number of readers shuffles in another order.

    Args:
      start_step: as above.
      shard_id: from 0 to num_shards - 1.
      num_shards: readers, a divisor of the batch size.
      saved_at: where the iterator of an earlier run saved its place, if it did;
        it counts in place of `start_step`.

    Raises:
      ConfigError: as above.
    """
    import seqio

    _prepare(self.mixture_or_task_name, self.split, self.vocab_size)
    dataset = _dataset(
      self.mixture_or_task_name,
      self.task_feature_lengths,
      self.split,
      shuffle=True,
      num_epochs=None,
      seed=self.seed,
      shard_info=seqio.ShardInfo(shard_id, num_shards),
    )
    rows = self.batch_size // num_shards
    dataset = dataset.batch(rows, drop_remainder=True)
    return saved_iterator.SavedIterator(
      dataset, _to_arrays, start_step, saved_at
    )


def seqio_eval_batches(
  mixture_or_task_name: str,
  split: str = 'validation',
  *,
  task_feature_lengths: Mapping[str, int],
  batch_size: int,
  max_examples: int | None = None,
) -> Iterator[tuple[arrays.Batch, int]]:
  """`batches.eval_batches` of any registered task or mixture.

  Yields:
    Batches in the task's own order, all of one shape, each with its count of
    real rows; the last one is filled up with empty rows, which weigh nothing.

  Raises:
    ConfigError: as `SeqioBatches`.
  """
  _prepare(mixture_or_task_name, split)
  dataset = _dataset(
    mixture_or_task_name,
    task_feature_lengths,
    split,
    shuffle=False,
    num_epochs=1,
    # A mixture draws from its tasks: the same examples at every evaluation.
    seed=0,
  )
  dataset = dataset.take(-1 if max_examples is None else max_examples)
  for features in dataset.batch(batch_size).as_numpy_iterator():
    batch = _to_arrays(features)
    count = len(batch['decoder_target_tokens'])
    missing = ((0, batch_size - count), (0, 0))
    yield {key: np.pad(rows, missing) for key, rows in batch.items()}, count


def _prepare(name: str, split: str, vocab_size: int | None = None) -> None:
  """Registers our tasks where `name` is one; checks that all fits."""
  import seqio

  add_to_seqio(name)
  _check_names(name, split)
  features = seqio.get_mixture_or_task(name).output_features
  check_features(name, features)
  needed = max(x.vocabulary.vocab_size for x in features.values())
  # JAX would read the last row of the embedding for every larger id.
  if vocab_size is not None and vocab_size < needed:
    raise errors.ConfigError(
      f'VOCAB_SIZE must be at least {needed}, the size of the vocabulary of'
      f' {name}, got {vocab_size}.'
    )


def check_features(name: str, features: Iterable[str]) -> None:
  """Raises a ConfigError where a task is none for an encoder-decoder."""
  if missing := {'inputs', 'targets'} - set(features):
    raise errors.ConfigError(
      f'The task {name} must have the features inputs and targets, as an'
      f' encoder-decoder reads; it has no {" and no ".join(sorted(missing))}.'
    )


def add_to_seqio(name: str) -> None:
  """Registers a task of ours with seqio again; leaves those that are not."""
  if (task := task_registry.find(name)) is not None:
    task.add_to_seqio()
  elif not _is_registered(name):
    register()


def _dataset(name: str, lengths: Mapping[str, int], split: str, **options):
  import seqio

  return seqio.get_dataset(
    name,
    dict(arrays.checked_lengths(lengths)),
    seqio.EncDecFeatureConverter(pack=False),
    dataset_split=split,
    **options,
  )


def _to_arrays(features: Mapping[str, np.ndarray]) -> arrays.Batch:
  weights = features['decoder_loss_weights'].astype(np.float32)
  return {**features, 'decoder_loss_weights': weights}


def _dataset_fn(load):
  """A seqio `dataset_fn` over examples; with a seed, wholly shuffled."""

  def dataset_fn(split, shuffle_files, seed=None):
    import tensorflow as tf

    examples = load(split)
    if shuffle_files:
      order = np.random.default_rng(seed).permutation(len(examples))
      examples = [examples[i] for i in order]
    return tf.data.Dataset.from_tensor_slices(
      {
        'example_id': [x.example_id for x in examples],
        'inputs': [x.inputs for x in examples],
        'targets': [x.targets for x in examples],
      }
    )

  return dataset_fn


def _remove(registry, name: str) -> None:
  if name in registry.names():
    registry.remove(name)


def _registered_names() -> set[str]:
  import seqio

  return {*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()}


def _is_registered(name: str) -> bool:
  return name in _registered_names()


def _check_names(name: str, split: str) -> None:
  import seqio

  if not _is_registered(name):
    near = difflib.get_close_matches(
      name, sorted(_registered_names()), n=1, cutoff=0
    )
    raise errors.ConfigError(
      f'MIXTURE_OR_TASK_NAME must be registered with seqio, got {name!r}. Did'
      f' you mean {near[0]!r}?'
    )
  known = seqio.get_mixture_or_task(name).splits
  if split not in known:
    raise errors.ConfigError(
      f'{name} must have the split asked for; it has'
      f' {", ".join(sorted(known))}, got {split!r}.'
    )
