"""Tests of the corpus on disk."""

import json
import os
import pathlib
import shutil

import pytest

from calm_jax import errors
from calm_jax.data import corpus, docstrings, installed, splits, tasks


def _all_examples(source, cache_dir):
  return {
    (task, split): corpus.load_corpus(
      task, split, source=source, cache_dir=cache_dir
    )
    for task in tasks.TASKS
    for split in splits.SPLITS
  }


def test_no_sentence_is_in_two_splits(source, cache_dir):
  found = _all_examples(source, cache_dir)
  home = {}
  for (_, split), examples in found.items():
    for example in examples:
      words = splits.words_of(example.targets)
      assert home.setdefault(words, split) == split
  assert set(home.values()) == set(splits.SPLITS)


def _quotes(text, sentences):
  """By plain search of strings; the corpus looks words up in an index."""
  text = f' {splits.words_of(text)} '
  return any(f' {splits.words_of(x)} ' in text for x in sentences)


def test_no_training_pair_quotes_a_held_out_target(source, cache_dir):
  found = _all_examples(source, cache_dir)
  held_out = [
    example.targets
    for (_, split), examples in found.items()
    for example in examples
    if split != 'train'
  ]
  pairs = found['docstring_summarization', 'train']
  assert held_out and pairs
  for pair in pairs:
    assert not _quotes(pair.inputs, held_out)
    assert not _quotes(pair.targets, held_out)


def test_only_the_quoting_pairs_are_dropped(source, cache_dir):
  extract = docstrings.extract_here(source.list_files())
  restoration = corpus.restoration_examples(extract.sentences)
  pairs = corpus.summarization_examples(extract.summaries)
  kept = corpus.without_quotations(pairs, restoration)
  held_out = [
    x.targets
    for x in (*restoration, *pairs)
    if splits.split_of(x.example_id) != 'train'
  ]
  # In the made-up docstrings every target is one sentence of its own.
  expected = [
    x
    for x in pairs
    if splits.split_of(x.example_id) != 'train'
    or not _quotes(x.inputs, held_out)
  ]
  assert kept == expected
  assert 0 < len(kept) < len(pairs)


def test_a_held_out_target_quotes_no_training_sentence():
  trained = corpus.Example('0' * 16, 'restore: it is on', 'It is on.')
  quoting = corpus.Example('f' * 16, 'summarize: f()', 'See x. - It `is` on!')
  apart = corpus.Example('f' * 16, 'summarize: It is on.', 'It is one.')
  kept = corpus.without_quotations([quoting, apart], [trained])
  assert kept == [apart]


def test_examples(source, cache_dir):
  found = _all_examples(source, cache_dir)
  count = sum(
    len(found['docstring_restoration', split]) for split in splits.SPLITS
  )
  assert count == 800
  for (task, _), examples in found.items():
    ids = [x.example_id for x in examples]
    assert ids == sorted(set(ids))
    assert all(x.inputs.startswith(tasks.TASKS[task].prefix) for x in examples)
  by_target = {
    x.targets: x
    for split in splits.SPLITS
    for x in found['docstring_restoration', split]
  }
  example = by_target[
    "Returns the tensor number a in order, unless it's missing."
  ]
  assert example.inputs == (
    "restore: returns the tensor number a in order unless it's missing"
  )


def test_duplicates_leave_the_first_one():
  examples = corpus.restoration_examples(
    ['Read the JSON file, then stop.', 'Read the json file then stop.']
  )
  assert [x.targets for x in examples] == ['Read the JSON file, then stop.']


def test_two_builds_give_the_same_bytes(source, cache_dir, tmp_path):
  again = corpus.ensure_corpus(source, tmp_path)
  first = corpus.ensure_corpus(source, cache_dir)
  names = sorted(path.name for path in first.iterdir())
  assert names == sorted(path.name for path in again.iterdir())
  for name in names:
    assert (first / name).read_bytes() == (again / name).read_bytes()


def test_manifest(source, cache_dir):
  manifest = corpus.read_manifest(corpus.ensure_corpus(source, cache_dir))
  assert manifest['packages'] == {'tiny': '1'}
  assert manifest['files_read'] == 2
  assert manifest['files_skipped'] == 2
  counts = manifest['counts']['docstring_restoration']
  assert sum(counts.values()) == 800
  assert len(manifest['digest']) == 64


def test_the_cache_is_used(source, cache_dir):
  def never():
    raise AssertionError('built again')

  same = corpus.Source(source.packages, never)
  examples = corpus.load_corpus(
    'docstring_restoration', 'train', source=same, cache_dir=cache_dir
  )
  assert examples


def test_other_versions_have_another_folder(source):
  other = corpus.Source({'tiny': '2'}, source.list_files)
  assert other.key != source.key


def test_the_environment_names_the_cache(monkeypatch, tmp_path):
  monkeypatch.setenv('CALM_JAX_CACHE', str(tmp_path))
  assert corpus.default_cache_dir() == tmp_path
  monkeypatch.delenv('CALM_JAX_CACHE')
  assert corpus.default_cache_dir() == pathlib.Path.home() / '.cache/calm_jax'


@pytest.mark.parametrize('damage', ['truncate', 'flip', 'remove'])
def test_a_damaged_file_is_told(source, cache_dir, tmp_path, damage):
  folder = corpus.ensure_corpus(source, cache_dir)
  copy = tmp_path / folder.name
  shutil.copytree(folder, copy)
  path = copy / 'docstring_restoration-test.jsonl'
  content = bytearray(path.read_bytes())
  if damage == 'remove':
    path.unlink()
  elif damage == 'truncate':
    path.write_bytes(content[: len(content) // 2])
  else:
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
  with pytest.raises(errors.DataError, match='Delete the folder'):
    corpus.load_corpus(
      'docstring_restoration', 'test', source=source, cache_dir=tmp_path
    )


@pytest.mark.parametrize(
  'text',
  ['{"counts":', '{}', '[]', '{"files": 3, "digest": "a", "counts": {}}'],
)
def test_a_damaged_manifest_is_told(source, cache_dir, tmp_path, text):
  folder = corpus.ensure_corpus(source, cache_dir)
  copy = tmp_path / folder.name
  shutil.copytree(folder, copy)
  (copy / 'manifest.json').write_text(text)
  with pytest.raises(errors.DataError, match='manifest.json'):
    corpus.load_corpus(
      'docstring_restoration', 'test', source=source, cache_dir=tmp_path
    )


def test_a_failed_build_leaves_nothing(source, tmp_path, monkeypatch):
  def fail(*_):
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr(corpus, '_write', fail)
  with pytest.raises(errors.ResourceError, match='No space left'):
    corpus.ensure_corpus(source, tmp_path / 'cache')
  assert list((tmp_path / 'cache').iterdir()) == []


def test_a_faster_process_wins(source, cache_dir, tmp_path):
  ready = corpus.ensure_corpus(source, cache_dir)
  directory = tmp_path / ready.name
  shutil.copytree(ready, directory)
  before = os.stat(directory / 'manifest.json').st_mtime_ns
  corpus.build_corpus(directory, source)
  assert os.stat(directory / 'manifest.json').st_mtime_ns == before
  assert [path.name for path in tmp_path.iterdir()] == [directory.name]


def test_no_docstrings_is_told(tmp_path):
  (tmp_path / 'empty.py').write_text('x = 1\n')
  source = corpus.Source({}, lambda: installed.walk([tmp_path]))
  with pytest.raises(errors.DataError, match='none'):
    corpus.ensure_corpus(source, tmp_path / 'cache')


def test_unknown_names_are_told():
  with pytest.raises(errors.ConfigError, match="mean 'docstring_restoration'"):
    corpus.load_corpus('docstring_restoraton', 'test')
  with pytest.raises(errors.ConfigError, match='validation'):
    corpus.load_corpus('docstring_restoration', 'dev')


def test_lines_are_plain_json(source, cache_dir):
  folder = corpus.ensure_corpus(source, cache_dir)
  path = folder / 'docstring_summarization-train.jsonl'
  first = json.loads(path.read_text().splitlines()[0])
  assert set(first) == {'example_id', 'inputs', 'targets'}
