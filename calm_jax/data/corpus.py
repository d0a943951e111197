"""The corpus on disk: examples of every task and split, built once.

`docstrings` reads the source files; here the candidates become examples, lose
their duplicates, get their split and are stored as JSON lines in a cache folder
named after what they were made from. Examples of a split are sorted by id, an
order that is random in content and the same on every machine.
"""

import dataclasses
import hashlib
import json
import logging
import os
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from calm_jax import errors
from calm_jax.data import docstrings, installed, overlap, prose, splits, tasks

# Raise it whenever the same files would give other examples.
EXTRACTOR_VERSION = 4

_MANIFEST = 'manifest.json'


@dataclasses.dataclass(frozen=True)
class Example:
  """One example: model input with its task prefix, and the target text."""

  example_id: str
  inputs: str
  targets: str


@dataclasses.dataclass(frozen=True)
class Source:
  """Where docstrings come from.

  Attributes:
    packages: name -> version of what is read; it names the cache.
    list_files: gives the Python files; called only to build the corpus.
  """

  packages: Mapping[str, str]
  list_files: Callable[[], Sequence[pathlib.Path]]

  @property
  def key(self) -> str:
    """Digest of packages, versions and the extractor's own version."""
    text = json.dumps([EXTRACTOR_VERSION, sorted(self.packages.items())])
    return hashlib.sha256(text.encode('utf-8')).hexdigest()[:12]


def installed_source() -> Source:
  """The standard library and the installed dependencies of calm_jax."""
  return Source(installed.packages(), installed.files)


def folder_source(folder: str | os.PathLike) -> Source:
  """Packages in a folder of their own (`pip install --target folder ...`).

  Raises:
    DataError: no installed package is there.
  """
  folder = pathlib.Path(folder).expanduser()
  found = installed.packages_in(folder)
  if not found:
    raise errors.DataError(
      f'The folder {folder} must hold installed packages; there is none. Fill'
      f' it with: pip install --no-deps --target {folder} PACKAGE ...'
    )
  return Source(found, lambda: installed.walk([folder]))


def default_cache_dir() -> pathlib.Path:
  """$CALM_JAX_CACHE, else ~/.cache/calm_jax."""
  return pathlib.Path(
    os.environ.get('CALM_JAX_CACHE') or '~/.cache/calm_jax'
  ).expanduser()


def load_corpus(
  task: str,
  split: str,
  *,
  source: Source | None = None,
  cache_dir: pathlib.Path | None = None,
) -> list[Example]:
  """Examples of one task and split; the first call builds the corpus.

  Args:
    task: a name in `tasks.TASKS`.
    split: a name in `splits.SPLITS`.
    source: what to read; the installed packages if None.
    cache_dir: where corpora are kept; `default_cache_dir()` if None.

  Raises:
    ConfigError: unknown task or split.
    DataError: the cached file is damaged.
    ResourceError: the cache folder cannot be written.
  """
  tasks.get_task(task)
  splits.check(split)
  directory = ensure_corpus(source, cache_dir)
  name = _file_name(task, split)
  expected = read_manifest(directory)['files'].get(name)
  try:
    content = (directory / name).read_bytes()
  except OSError:
    content = b''
  if hashlib.sha256(content).hexdigest() != expected:
    raise _damaged(directory, name)
  lines = content.decode('utf-8').splitlines()
  return [Example(**json.loads(line)) for line in lines]


def ensure_corpus(
  source: Source | None = None, cache_dir: pathlib.Path | None = None
) -> pathlib.Path:
  """Folder of the corpus of `source`, built first where it does not exist."""
  source = source or installed_source()
  cache_dir = pathlib.Path(cache_dir or default_cache_dir())
  directory = cache_dir / f'corpus-{source.key}'
  if not directory.is_dir():
    build_corpus(directory, source)
  return directory


def read_manifest(directory: pathlib.Path) -> dict:
  """Manifest of a corpus folder.

  Raises:
    DataError: missing, not JSON, or not a corpus manifest.
  """
  try:
    manifest = json.loads((directory / _MANIFEST).read_text(encoding='utf-8'))
  except (OSError, ValueError) as error:
    raise _damaged(directory, _MANIFEST) from error
  if not _is_ours(manifest):
    raise _damaged(directory, _MANIFEST)
  return manifest


def _is_ours(manifest: Any) -> bool:
  return (
    isinstance(manifest, dict)
    and isinstance(manifest.get('digest'), str)
    and isinstance(manifest.get('files'), dict)
    and isinstance(manifest.get('counts'), dict)
  )


def build_corpus(directory: pathlib.Path, source: Source) -> None:
  """Reads `source` and writes its corpus, whole or not at all.

  Raises:
    DataError: the files hold no usable docstring.
    ResourceError: the folder cannot be written.
  """
  files = source.list_files()
  extract = docstrings.extract(files)
  restoration = restoration_examples(extract.sentences)
  pairs = summarization_examples(extract.summaries)
  examples = {
    tasks.RESTORATION.name: restoration,
    tasks.SUMMARIZATION.name: without_quotations(pairs, restoration),
  }
  if not all(examples.values()):
    raise errors.DataError(
      f'The {len(files)} Python files of {len(source.packages)} packages must'
      ' hold docstrings with prose for every task; there are none. Install the'
      ' dependencies with their source files.'
    )
  try:
    directory.parent.mkdir(parents=True, exist_ok=True)
    folder = tempfile.mkdtemp(dir=directory.parent, prefix='corpus-tmp-')
    try:
      _write(pathlib.Path(folder), examples, source, extract)
      # mkdtemp's folders are private; a cache may be shared.
      os.chmod(folder, 0o755)
      _publish(folder, directory)
    finally:
      shutil.rmtree(folder, ignore_errors=True)
  except OSError as error:
    raise errors.ResourceError(
      f'The corpus cache {directory.parent} must be writable: {error}. Set'
      ' CALM_JAX_CACHE to another folder.'
    ) from error


def restoration_examples(sentences: Iterable[str]) -> list[Example]:
  """Sentences -> examples whose input has neither case nor punctuation."""
  prefix = tasks.RESTORATION.prefix
  return _without_duplicates(
    (prefix + prose.plain_words(sentence), sentence) for sentence in sentences
  )


def summarization_examples(
  summaries: Iterable[tuple[str, str]],
) -> list[Example]:
  """(rest of the docstring, first paragraph) -> examples."""
  prefix = tasks.SUMMARIZATION.prefix
  return _without_duplicates(
    (prefix + rest, first) for rest, first in summaries
  )


def _without_duplicates(pairs: Iterable[tuple[str, str]]) -> list[Example]:
  found: dict[str, Example] = {}
  for inputs, targets in pairs:
    example_id = splits.example_id_of(targets)
    if example_id not in found:
      found[example_id] = Example(example_id, inputs, targets)
  return [found[example_id] for example_id in sorted(found)]


def without_quotations(
  pairs: Sequence[Example], restoration: Sequence[Example]
) -> list[Example]:
  """Drops summarization pairs that would mix training with held-out text.

  A training pair may contain no held-out target of either task, in its input or
  its target; a held-out pair's target may contain no sentence that restoration
  trains on.
  """
  trained = overlap.SentenceIndex(
    x.targets for x in restoration if _is_trained(x)
  )
  held_out = overlap.SentenceIndex(
    x.targets for x in (*restoration, *pairs) if not _is_trained(x)
  )

  def is_apart(pair: Example) -> bool:
    if not _is_trained(pair):
      return not trained.occurs_in(pair.targets)
    return not any(map(held_out.occurs_in, (pair.inputs, pair.targets)))

  return [pair for pair in pairs if is_apart(pair)]


def _is_trained(example: Example) -> bool:
  return splits.split_of(example.example_id) == 'train'


def _write(
  folder: pathlib.Path,
  examples: Mapping[str, list[Example]],
  source: Source,
  extract: docstrings.Extract,
) -> None:
  counts, files = {}, {}
  for task, all_examples in examples.items():
    for split in splits.SPLITS:
      chosen = [
        x for x in all_examples if splits.split_of(x.example_id) == split
      ]
      content = ''.join(
        json.dumps(dataclasses.asdict(x)) + '\n' for x in chosen
      ).encode('utf-8')
      name = _file_name(task, split)
      (folder / name).write_bytes(content)
      counts.setdefault(task, {})[split] = len(chosen)
      files[name] = hashlib.sha256(content).hexdigest()
  manifest = {
    'extractor_version': EXTRACTOR_VERSION,
    'counts': counts,
    'files': files,
    'digest': hashlib.sha256(json.dumps(files).encode('utf-8')).hexdigest(),
    'files_read': extract.files_read,
    'files_skipped': extract.files_skipped,
    'packages': dict(sorted(source.packages.items())),
  }
  text = json.dumps(manifest, indent=2) + '\n'
  (folder / _MANIFEST).write_text(text, encoding='utf-8')


def _publish(folder: str, directory: pathlib.Path) -> None:
  """Renames the finished folder, unless another process was faster."""
  try:
    os.rename(folder, directory)
  except OSError:
    if not directory.is_dir():
      raise
    logging.info('Another process built %s first.', directory)


def _file_name(task: str, split: str) -> str:
  return f'{task}-{split}.jsonl'


def _damaged(directory: pathlib.Path, name: str) -> errors.DataError:
  return errors.DataError(
    f'The corpus file {directory / name} is missing or damaged. Delete the'
    f' folder {directory}; the next run builds it again.'
  )
