"""A user's own TSV or JSONL files as a task, by gin alone.

    files --rows--> two columns, prefix --> examples

No TensorFlow, unless the task is read through seqio. gin/tasks/file.gin has the
macros, docs/tasks.md an example.
"""

import codecs
import dataclasses
import json
import pathlib
from collections.abc import Iterable, Iterator, Mapping

from calm_jax import errors
from calm_jax.data import corpus, splits, tasks, text_tasks
from calm_jax.metrics import text_metrics

# Besides the splits: what becomes validation, calibration and test.
HELD_OUT = 'held_out'


@dataclasses.dataclass(frozen=True, kw_only=True)
class FileTask:
  """A task read from files.

  Attributes:
    name: of the task.
    files: a path, whose examples are divided as `splits.SPLITS` says; or paths
      by split, where `held_out` names one to be divided into the three splits
      other than train. TSV files (.tsv) have no quoting; JSONL files (.jsonl)
      one object a line.
    inputs, targets: names of two columns, or of two keys of the objects. For a
      TSV file without a first line of names, their numbers, from 0.
    prefix: put before each input, with its trailing space.
    metric: a name in `text_metrics.METRICS`.
    vocabulary_path: for seqio; the shipped vocabulary if None.

  Raises:
    ConfigError: when made, if a field is none of these.
  """

  name: str
  files: str | Mapping[str, str]
  inputs: str | int = 'inputs'
  targets: str | int = 'targets'
  prefix: str = ''
  metric: str = 'chrf'
  vocabulary_path: str | None = None

  def __post_init__(self):
    text_metrics.get_metric(self.metric)
    if isinstance(self.files, str):
      return
    known = {*splits.SPLITS, HELD_OUT}
    is_by_split = isinstance(self.files, Mapping) and self.files
    if not is_by_split or not all(
      isinstance(path, str) for path in self.files.values()
    ):
      raise errors.ConfigError(
        f'The files of task {self.name} must be a path, or paths by split such'
        f" as {{'train': 'train.tsv', 'held_out': 'dev.tsv'}}; got"
        f' {self.files!r}.'
      )
    for split in self.files:
      if split not in known:
        raise errors.unknown_name(f'split of task {self.name}', split, known)

  @property
  def info(self) -> tasks.TaskInfo:
    return tasks.TaskInfo(
      self.name, self.prefix, (self.metric,), 'input_copied', str
    )

  @property
  def split_names(self) -> tuple[str, ...]:
    """Splits that the task has, in the order of `splits.SPLITS`."""
    return tuple(split for split in splits.SPLITS if self._source_of(split))

  def load(self, split: str) -> list[corpus.Example]:
    """Examples of a split; a pair of texts that comes twice is one example.

    Raises:
      ConfigError: the task has no such split, or the files no such columns.
      DataError: a file is missing or damaged, or the split is empty.
    """
    source = self._source_of(split)
    if source is None:
      raise errors.ConfigError(
        f'The task {self.name} has the splits {", ".join(self.split_names)},'
        f' got {split!r}. Name a file for it.'
      )
    path, split_of = source
    pairs = self._pairs(pathlib.Path(path).expanduser())
    examples = text_tasks.distinct(
      corpus.Example(example_id, self.prefix + inputs, targets)
      for inputs, targets in pairs
      if split_of(example_id := text_tasks.example_id_of(inputs, targets))
      == split
    )
    if not examples:
      raise errors.DataError(
        f'The split {split} of task {self.name} must hold examples, but {path}'
        ' gives none.'
      )
    return examples

  def add_to_seqio(self) -> None:
    """Registers the task with seqio; replaces one of its name."""
    from calm_jax.data import seqio_tasks

    seqio_tasks.register_examples(
      self.info, self.load, self.split_names, self.vocabulary_path
    )

  def _source_of(self, split: str):
    """(path, function from id to split) of a split, or None."""
    if split not in splits.SPLITS:
      return None
    if isinstance(self.files, str):
      return self.files, splits.split_of
    if split in self.files:
      return self.files[split], lambda _: split
    if HELD_OUT in self.files and split != 'train':
      return self.files[HELD_OUT], splits.held_out_split_of
    return None

  def _pairs(self, path: pathlib.Path) -> Iterator[tuple[str, str]]:
    for number, row in _rows(path, (self.inputs, self.targets)):
      texts = [str(text).strip() for text in row]
      if not all(texts):
        raise broken_line(
          path, number, 'an input and a target that are not empty'
        )
      yield texts[0], texts[1]


def register(
  *,
  name: str,
  files: str | Mapping[str, str],
  inputs: str | int = 'inputs',
  targets: str | int = 'targets',
  prefix: str = '',
  metric: str = 'chrf',
  vocabulary_path: str | None = None,
) -> str:
  """Adds a `FileTask` and returns its name; what gin files call.

  Raises:
    ConfigError: as `FileTask` and `text_tasks.add`.
  """
  return text_tasks.add(
    FileTask(
      name=name,
      files=files,
      inputs=inputs,
      targets=targets,
      prefix=prefix,
      metric=metric,
      vocabulary_path=vocabulary_path,
    )
  )


def _rows(
  path: pathlib.Path, columns: tuple[str | int, str | int]
) -> Iterator[tuple[int, tuple]]:
  """(line number from 1, values of the two columns) of every line."""
  readers = {'.tsv': _tsv_rows, '.jsonl': _jsonl_rows}
  if path.suffix not in readers:
    raise errors.ConfigError(
      f'The file of a task must end in .tsv or .jsonl, got {path}.'
    )
  yield from readers[path.suffix](path, lines(path), columns)


def lines(path: pathlib.Path) -> Iterator[tuple[int, str]]:
  """(number from 1, text without its end) of each line of a UTF-8 file.

  Raises:
    DataError: the file cannot be read, or a line is not UTF-8.
  """
  try:
    content = path.read_bytes()
  except OSError as error:
    raise errors.DataError(
      f'The file {path} of a task must be readable: {error.strerror}.'
    ) from error
  content = content.removeprefix(codecs.BOM_UTF8).removesuffix(b'\n')
  for number, line in enumerate(content.split(b'\n'), 1):
    try:
      yield number, line.decode('utf-8').removesuffix('\r')
    except UnicodeDecodeError as error:
      raise broken_line(path, number, 'UTF-8') from error


def _tsv_rows(path, lines: Iterable[tuple[int, str]], columns):
  names: list[str] | None = None
  by_name = isinstance(columns[0], str) or isinstance(columns[1], str)
  for number, line in lines:
    fields = line.split('\t')
    if names is None:
      names = fields if by_name else list(map(str, range(len(fields))))
      places = [_place(path, names, str(column)) for column in columns]
      if by_name:
        continue
    if len(fields) != len(names):
      raise broken_line(
        path, number, f'{len(names)} columns, got {len(fields)}'
      )
    yield number, tuple(fields[place] for place in places)


def _place(path: pathlib.Path, names: list[str], column: str) -> int:
  if column in names:
    return names.index(column)
  raise errors.unknown_name(f'column of {path}', column, names)


def _jsonl_rows(path, lines: Iterable[tuple[int, str]], columns):
  for number, line in lines:
    try:
      value = json.loads(line)
      texts = tuple(value[column] for column in columns)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
      raise broken_line(path, number, f'an object with {columns}') from error
    if not all(isinstance(text, str) for text in texts):
      raise broken_line(path, number, f'text under {columns}')
    yield number, texts


def broken_line(
  path: pathlib.Path, number: int, required: str
) -> errors.DataError:
  """The error of a line that does not hold what is required."""
  return errors.DataError(
    f'Line {number} of {path} must hold {required}. Mend the line or remove it.'
  )
