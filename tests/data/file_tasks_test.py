"""A user's files as a task: rows, splits, and what a broken line is told."""

import json
import subprocess
import sys

import pytest

from calm_jax import errors
from calm_jax.data import (
  arrays,
  file_tasks,
  splits,
  task_examples,
  text_tasks,
  vocabulary,
)

PAIRS = [(f'Long story {i}, told – twice.', f'Story {i}') for i in range(200)]


@pytest.fixture(autouse=True)
def forgotten(monkeypatch):
  """No test leaves its task behind."""
  monkeypatch.setattr(text_tasks, '_added', dict(text_tasks._added))


def write_tsv(path, pairs=PAIRS, header='title\tid\ttext'):
  lines = [header] if header else []
  lines += [f'{y}\t{i}\t{x}' for i, (x, y) in enumerate(pairs)]
  path.write_bytes('\n'.join(lines).encode('utf-8'))
  return str(path)


def write_jsonl(path, pairs=PAIRS):
  lines = [json.dumps({'text': x, 'title': y}) + '\n' for x, y in pairs]
  path.write_text(''.join(lines), encoding='utf-8')
  return str(path)


def make_task(files, **fields):
  settings = {'inputs': 'text', 'targets': 'title', 'prefix': 'title: '}
  return file_tasks.FileTask(name='mine', files=files, **settings | fields)


def pairs_of(examples):
  return {(x.inputs.removeprefix('title: '), x.targets) for x in examples}


def test_tsv_and_jsonl_give_the_same_examples(tmp_path):
  tsv = make_task({'test': write_tsv(tmp_path / 'a.tsv')}).load('test')
  assert pairs_of(tsv) == set(PAIRS)
  assert all(x.inputs.startswith('title: Long') for x in tsv)
  assert tsv == make_task({'test': write_jsonl(tmp_path / 'a.jsonl')}).load(
    'test'
  )
  assert tsv == make_task(
    {'test': write_tsv(tmp_path / 'b.tsv', header=None)}, inputs=2, targets=0
  ).load('test')


def test_windows_files_and_byte_order_marks(tmp_path):
  path = tmp_path / 'a.tsv'
  write_tsv(path, PAIRS[:3])
  path.write_bytes(
    b'\xef\xbb\xbf' + path.read_bytes().replace(b'\n', b'\r\n') + b'\r\n'
  )
  assert pairs_of(make_task({'test': str(path)}).load('test')) == set(PAIRS[:3])


def test_one_file_is_divided_as_the_hash_of_each_pair_says(tmp_path):
  task = make_task(write_tsv(tmp_path / 'a.tsv', PAIRS * 2))
  found = {split: pairs_of(task.load(split)) for split in task.split_names}
  assert list(found) == list(splits.SPLITS)
  assert sum(map(len, found.values())) == len(PAIRS)
  assert set().union(*found.values()) == set(PAIRS)
  for split, pairs in found.items():
    for pair in pairs:
      assert splits.split_of(text_tasks.example_id_of(*pair)) == split
  assert len(found['train']) > 150


def test_held_out_examples_become_three_splits(tmp_path):
  held_out = write_tsv(tmp_path / 'a.tsv')
  train = write_tsv(tmp_path / 'b.tsv', PAIRS[:2])
  task = make_task({'train': train, 'held_out': held_out})
  assert pairs_of(task.load('train')) == set(PAIRS[:2])
  counts = [
    len(task.load(split)) for split in ('validation', 'calibration', 'test')
  ]
  assert sum(counts) == len(PAIRS)
  # In proportion 2 : 4 : 4.
  assert all(
    abs(count - expected) < 25
    for count, expected in zip(counts, (40, 80, 80), strict=True)
  )


def test_a_split_of_its_own_wins_over_held_out(tmp_path):
  held_out = write_tsv(tmp_path / 'a.tsv')
  own = write_tsv(tmp_path / 'b.tsv', PAIRS[:2])
  task = make_task({'test': own, 'held_out': held_out})
  assert pairs_of(task.load('test')) == set(PAIRS[:2])
  with pytest.raises(errors.ConfigError, match='validation, calibration, test'):
    task.load('train')


def test_a_registered_task_is_tokenized_by_name(tmp_path, vocabulary_path):
  path = write_tsv(tmp_path / 'a.tsv', PAIRS[:5])
  name = file_tasks.register(
    name='mine',
    files={'train': path},
    inputs='text',
    targets='title',
    metric='rouge_l',
  )
  found = task_examples.load(name, 'train')
  assert (name, found.info.metric) == ('mine', 'rouge_l')
  rows = task_examples.load_tokenized(
    'mine', 'train', vocabulary_path=str(vocabulary_path), max_examples=3
  )
  expected = arrays.tokenize(
    found.examples[:3], vocabulary.Tokenizer(vocabulary_path)
  )
  assert rows.example_ids == expected.example_ids
  assert [x.tolist() for x in rows.inputs] == [
    x.tolist() for x in expected.inputs
  ]


def test_other_text_has_another_digest(tmp_path):
  digests = set()
  for count in (2, 3, 3):
    path = write_tsv(tmp_path / f'{count}.tsv', PAIRS[:count])
    text_tasks.add(make_task({'test': path}))
    digests.add(task_examples.load('mine', 'test').digest)
  assert len(digests) == 2


@pytest.mark.parametrize(
  ('name', 'content', 'message'),
  [
    ('a.tsv', b'text\ttitle\nx\ty\nx\n', 'Line 3 .* 2 columns, got 1'),
    ('a.tsv', b'text\ttitle\nx\t \n', 'Line 2 .* not empty'),
    ('a.tsv', b'text\ttitle\n\xff\ty\n', 'Line 2 .* UTF-8'),
    ('a.tsv', b'text\ttitle\n', 'must hold examples'),
    ('a.jsonl', b'{"text": "x", "title": "y"}\n[1]\n', 'Line 2 .* an object'),
    ('a.jsonl', b'{"text": "x"}\n', 'Line 1 .* an object with'),
    ('a.jsonl', b'{"text": "x", "title": 3}\n', 'Line 1 .* text under'),
    ('a.jsonl', b'', 'Line 1'),
  ],
)
def test_a_broken_line_is_named(name, content, message, tmp_path):
  (tmp_path / name).write_bytes(content)
  with pytest.raises(errors.DataError, match=message):
    make_task({'test': str(tmp_path / name)}).load('test')


def test_settings_that_do_not_fit_are_told(tmp_path):
  with pytest.raises(errors.ConfigError, match="mean 'chrf'"):
    make_task('a.tsv', metric='chr')
  with pytest.raises(errors.ConfigError, match="mean 'validation'"):
    make_task({'validate': 'a.tsv'})
  for files in ({}, {'train': 3}, ['a.tsv']):
    with pytest.raises(errors.ConfigError, match='paths by split'):
      make_task(files)
  with pytest.raises(errors.ConfigError, match='built-in'):
    text_tasks.add(
      file_tasks.FileTask(name='docstring_restoration', files='a.tsv')
    )
  with pytest.raises(errors.ConfigError, match='end in .tsv or .jsonl'):
    make_task('a.csv').load('train')
  with pytest.raises(errors.DataError, match='No such file'):
    make_task(str(tmp_path / 'a.tsv')).load('train')
  path = write_tsv(tmp_path / 'a.tsv')
  with pytest.raises(errors.ConfigError, match="mean 'title'"):
    make_task(path, targets='titel').load('train')


def test_an_unknown_task_is_told():
  with pytest.raises(errors.ConfigError, match="mean 'squad_v010_allanswers'"):
    task_examples.load('squad_v010_allanswer', 'test')
  assert task_examples.find_task('squad_v010_allanswer') is None


def test_no_tensorflow_is_needed(tmp_path):
  path = write_tsv(tmp_path / 'a.tsv')
  program = f"""
import sys
sys.modules['tensorflow'] = sys.modules['seqio'] = None
from calm_jax.data import file_tasks, task_examples
name = file_tasks.register(
  name='mine', files={path!r}, inputs='text', targets='title')
print(len(task_examples.load_tokenized(name, 'train')))
"""
  result = subprocess.run(
    [sys.executable, '-c', program], capture_output=True, text=True
  )
  assert result.returncode == 0, result.stderr
  assert int(result.stdout) > 150
