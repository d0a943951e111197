"""The built-in tasks for seqio, and training batches read through seqio.

The way for users who bring their own seqio tasks and mixtures; `batches` gives
the same arrays of the built-in tasks without TensorFlow. seqio and TensorFlow
are imported inside the functions, so this module itself imports anywhere.
"""

import difflib
import functools
import os
import pathlib
from collections.abc import Iterator, Mapping

import numpy as np

from calm_jax import errors
from calm_jax.data import arrays, corpus, splits, tasks, vocabulary


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

  feature = seqio.Feature(vocabulary.load_vocabulary(vocabulary_path))
  # A mixture refers to its tasks, so it leaves first.
  _remove(seqio.MixtureRegistry, tasks.MIXTURE)
  for task in tasks.TASKS.values():
    load = functools.partial(
      corpus.load_corpus, task.name, source=source, cache_dir=cache_dir
    )
    _remove(seqio.TaskRegistry, task.name)
    seqio.TaskRegistry.add(
      task.name,
      source=seqio.FunctionDataSource(
        _dataset_fn(load), splits=tuple(splits.SPLITS)
      ),
      preprocessors=[
        seqio.preprocessors.tokenize,
        seqio.preprocessors.append_eos_after_trim,
      ],
      output_features={'inputs': feature, 'targets': feature},
      metric_fns=tasks.metric_fns(task),
    )
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


def seqio_batches(
  mixture_or_task_name: str,
  split: str = 'train',
  *,
  task_feature_lengths: Mapping[str, int] = arrays.TASK_FEATURE_LENGTHS,
  batch_size: int,
  seed: int = 0,
  start_step: int = 0,
) -> Iterator[arrays.Batch]:
  """Endless shuffled training batches of any registered task or mixture.

  The stream depends on `seed` alone, so a run resumed at `start_step` goes on
  as an uninterrupted one; the skipped batches are read and thrown away.

  Yields:
    The arrays of `arrays.to_batch`, padded to the feature lengths.

  Raises:
    ConfigError: unknown task or mixture, or unknown split.
  """
  import seqio

  if not _is_registered(mixture_or_task_name):
    register()
  _check_names(mixture_or_task_name, split)
  dataset = seqio.get_dataset(
    mixture_or_task_name,
    dict(task_feature_lengths),
    seqio.EncDecFeatureConverter(pack=False),
    dataset_split=split,
    shuffle=True,
    num_epochs=None,
    seed=seed,
    batch_size=batch_size,
  )
  return map(_to_arrays, dataset.skip(start_step).as_numpy_iterator())


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


def _is_registered(name: str) -> bool:
  import seqio

  return name in {*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()}


def _check_names(name: str, split: str) -> None:
  import seqio

  names = {*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()}
  if name not in names:
    near = difflib.get_close_matches(name, sorted(names), n=1, cutoff=0)
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
