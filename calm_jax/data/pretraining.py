"""A user's own text as a pre-training task, by gin alone.

    text files --> lines --span_corruption--> inputs, targets --> seqio

It is read through seqio, for training only: nothing is generated or judged.
gin/tasks/span_corruption.gin has the macros. TensorFlow is imported when the
task is read.
"""

import dataclasses
import functools
import glob
import pathlib
from collections.abc import Mapping

from calm_jax import errors
from calm_jax.data import calm_tasks, corpus, tasks, text_tasks

_SPLITS = ('train', 'validation')


@dataclasses.dataclass(frozen=True, kw_only=True)
class PretrainingTask:
  """Span corruption of UTF-8 text files, a text a line.

  Attributes:
    name: of the task.
    files: a path for each of train and validation, perhaps with wildcards.
    vocabulary_path: SentencePiece file; T5's 100 sentinels are added.
    noise_density: share of the tokens that is missing.
    mean_noise_span_length: tokens of a missing span.

  Raises:
    ConfigError: when made, if a split has no path or a number is out of range.
  """

  name: str
  files: Mapping[str, str]
  vocabulary_path: str | None = None
  noise_density: float = 0.15
  mean_noise_span_length: float = 3.0

  def __post_init__(self):
    if (
      not isinstance(self.files, Mapping)
      or set(self.files) != set(_SPLITS)
      or not all(isinstance(path, str) for path in self.files.values())
    ):
      raise errors.ConfigError(
        'TEXT_FILES must give a path for train and one for validation, such as'
        " {'train': 'text/*.txt', 'validation': 'held_out.txt'}; got"
        f' {self.files!r}.'
      )
    if not 0.0 < self.noise_density < 1.0:
      raise errors.ConfigError(
        f'NOISE_DENSITY must be in (0, 1), got {self.noise_density}.'
      )
    if not self.mean_noise_span_length >= 1.0:
      raise errors.ConfigError(
        'MEAN_NOISE_SPAN_LENGTH must be at least 1, got'
        f' {self.mean_noise_span_length}.'
      )

  @property
  def info(self) -> tasks.TaskInfo:
    return tasks.TaskInfo(self.name, '', (), 'input_copied', str)

  def load(self, split: str) -> list[corpus.Example]:
    """Raises ConfigError: its inputs are drawn again whenever it is read."""
    raise errors.ConfigError(
      f'{self.name} is a task to train on; it has no fixed {split} examples to'
      ' decode. Name another task.'
    )

  def add_to_seqio(self) -> None:
    """Registers the task with seqio; replaces one of its name.

    Raises:
      ConfigError: no vocabulary was given.
      DataError: it is missing or damaged, or there are no such files.
    """
    import seqio

    from calm_jax.data import span_corruption

    for split, pattern in self.files.items():
      if not glob.glob(str(pathlib.Path(pattern).expanduser())):
        raise errors.DataError(
          f'The {split} files of {self.name} must exist; nothing matches'
          f' {pattern}.'
        )
    feature = seqio.Feature(calm_tasks.t5_vocabulary(self.vocabulary_path))
    if self.name in seqio.TaskRegistry.names():
      seqio.TaskRegistry.remove(self.name)
    seqio.TaskRegistry.add(
      self.name,
      source=seqio.TextLineDataSource(
        {
          split: str(pathlib.Path(pattern).expanduser())
          for split, pattern in self.files.items()
        }
      ),
      preprocessors=[
        _as_targets,
        functools.partial(
          seqio.preprocessors.tokenize, copy_pretokenized=False
        ),
        seqio.CacheDatasetPlaceholder(),
        functools.partial(
          span_corruption.span_corruption,
          noise_density=self.noise_density,
          mean_noise_span_length=self.mean_noise_span_length,
          num_sentinels=calm_tasks.EXTRA_IDS,
        ),
        seqio.preprocessors.append_eos_after_trim,
      ],
      output_features={'inputs': feature, 'targets': feature},
    )


def register(
  *,
  name: str,
  files: Mapping[str, str],
  vocabulary_path: str | None = None,
  noise_density: float = 0.15,
  mean_noise_span_length: float = 3.0,
) -> str:
  """Adds a `PretrainingTask` and returns its name; what gin files call.

  Raises:
    ConfigError: as `PretrainingTask` and `text_tasks.add`.
  """
  return text_tasks.add(
    PretrainingTask(
      name=name,
      files=files,
      vocabulary_path=vocabulary_path,
      noise_density=noise_density,
      mean_noise_span_length=mean_noise_span_length,
    )
  )


def _as_targets(dataset):
  return dataset.map(lambda line: {'targets': line})
