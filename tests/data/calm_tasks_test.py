"""CALM's three tasks over tiny data sets in TFDS' own format."""

import dataclasses
import itertools
import re

import numpy as np
import pytest
from testing import tiny_tfds

from calm_jax import errors
from calm_jax.data import (
  arrays,
  calm_tasks,
  seqio_tasks,
  splits,
  task_examples,
  task_registry,
  text_tasks,
  vocabulary,
)

seqio = pytest.importorskip('seqio')

HELD_OUT = ('validation', 'calibration', 'test')
NAMES = list(calm_tasks.TASKS)
LENGTHS = {'inputs': 96, 'targets': 24}


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
  """The three data sets as `tfds build` would have written them."""
  folder = tmp_path_factory.mktemp('tfds')
  tiny_tfds.write(folder)
  return str(folder)


@pytest.fixture(scope='module', autouse=True)
def registered(data_dir, vocabulary_path):
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(text_tasks, '_added', dict(text_tasks._added))
    for name in NAMES:
      calm_tasks.register(
        name=name, vocabulary_path=str(vocabulary_path), tfds_data_dir=data_dir
      )
    yield
  for name in NAMES:
    if name in seqio.TaskRegistry.names():
      seqio.TaskRegistry.remove(name)


def _padded(text):
  """T5's way with punctuation, by Python's regular expressions."""
  return re.sub(r'\s+', ' ', re.sub(r'([^0-9A-Za-z_])', r' \1 ', text))


def _expected(name, i):
  """(inputs, reference) of example number i, by T5's rules."""
  if name == 'cnn_dailymail_v002':
    x = tiny_tfds.news(i)
    return 'summarize: ' + x['article'], x['highlights']
  if name == 'wmt15_enfr_v003':
    x = tiny_tfds.pair(i)
    return 'translate English to French: ' + x['en'], x['fr']
  x = tiny_tfds.question(i)
  question, context = _padded(x['question']), _padded(x['context'])
  inputs = re.sub(r'\s+', ' ', f'question: {question} context: {context}')
  return inputs, f'In {900 + i}\n{900 + i}'


@pytest.mark.parametrize('name', NAMES)
def test_inputs_and_references_are_t5s(name):
  found = {
    (x.inputs, x.targets) for x in task_examples.load(name, 'train').examples
  }
  assert found == {_expected(name, i) for i in range(5)}


def test_worked_example_of_a_question():
  inputs = {x.inputs for x in task_examples.load(NAMES[2], 'train').examples}
  assert (
    'question: When did Rollo meet her ? context: In 904 , Rollo ( a Norman )'
    ' met Beyonc é . '
  ) in inputs


@pytest.mark.parametrize('name', NAMES)
def test_what_tfds_holds_out_is_divided_by_hash(name):
  found = {x: task_examples.load(name, x).examples for x in HELD_OUT}
  pairs = [(x.inputs, x.targets) for xs in found.values() for x in xs]
  # Example 24 is in two of TFDS' splits, and here once.
  assert sorted(pairs) == sorted(_expected(name, i) for i in range(5, 45))
  example, identity = tiny_tfds.SETS[name][2], calm_tasks.TASKS[name].identity
  for i in range(5, 45):
    example_id = text_tasks.example_id_of(*(example(i)[x] for x in identity))
    split = splits.held_out_split_of(example_id)
    assert example_id in {x.example_id for x in found[split]}
  for xs in found.values():
    assert xs and xs == sorted(xs, key=lambda x: x.example_id)


def _rows(batches, key):
  return sorted(
    tuple(row[row > 0].tolist()) for batch in batches for row in batch[key]
  )


@pytest.mark.parametrize(
  ('name', 'split'),
  [(NAMES[0], 'train'), (NAMES[1], 'test'), (NAMES[2], 'test')],
)
def test_seqio_sees_the_same_texts(name, split, vocabulary_path):
  examples = task_examples.load(name, split).examples
  tokens = arrays.tokenize(
    [
      x.__class__(x.example_id, x.inputs, x.targets.split('\n')[0])
      for x in examples
    ]
    if name == NAMES[2]
    else examples,
    vocabulary.Tokenizer(vocabulary_path),
    LENGTHS,
  )
  batches = seqio_tasks.seqio_eval_batches(
    name, split, task_feature_lengths=LENGTHS, batch_size=16
  )
  batches = [
    {key: rows[:count] for key, rows in batch.items()}
    for batch, count in batches
  ]
  # TFDS may say one example twice; here it is one.
  for key, rows in (
    ('encoder_input_tokens', tokens.inputs),
    ('decoder_target_tokens', tokens.targets),
  ):
    assert set(_rows(batches, key)) == {tuple(row.tolist()) for row in rows}


def test_training_batches_come_without_end():
  source = seqio_tasks.SeqioBatches(
    mixture_or_task_name=NAMES[0],
    task_feature_lengths=LENGTHS,
    batch_size=4,
    vocab_size=450,
  )
  for batch in itertools.islice(source(1), 3):
    assert batch['encoder_input_tokens'].shape == (4, 96)


def test_questions_are_judged_by_all_answers():
  task_registry.find(NAMES[2]).add_to_seqio()
  task = seqio.TaskRegistry.get(NAMES[2])
  example = {'answers': np.array([b'In 911 ', b'911'])}
  targets = task.postprocess_fn('In 911', example=example, is_target=True)
  (metric,) = task.metric_fns
  assert metric(targets=[targets], predictions=['911']) == {
    'em': 100.0,
    'f1': 100.0,
  }


def test_the_vocabulary_gets_t5s_extra_ids_once(vocabulary_path, tmp_path):
  pieces = vocabulary.Tokenizer(vocabulary_path).vocab_size
  found = calm_tasks.t5_vocabulary(str(vocabulary_path))
  assert found.vocab_size == pieces + 100
  with_them = tmp_path / 'with.model'
  with_them.write_bytes(found.sp_model)
  assert vocabulary.Tokenizer(with_them).vocab_size == pieces + 100
  again = calm_tasks.t5_vocabulary(str(with_them))
  assert again.vocab_size == pieces + 100


def test_fault_41_what_is_missing_is_told(tmp_path, data_dir, vocabulary_path):
  empty = dataclasses.replace(calm_tasks.SQUAD, tfds_data_dir=str(tmp_path))
  with pytest.raises(errors.DataError, match='tfds build squad/v1.1:3.0.0'):
    empty.load('test')
  with pytest.raises(errors.DataError, match='must be prepared in'):
    empty.check_data()
  dataclasses.replace(empty, tfds_data_dir=str(data_dir)).check_data()
  with pytest.raises(
    errors.ConfigError, match='VOCABULARY_PATH .*gs://t5-data'
  ):
    calm_tasks.t5_vocabulary(None)
  with pytest.raises(errors.DataError, match='no.model is none.*gs://t5-data'):
    calm_tasks.t5_vocabulary(str(tmp_path / 'no.model'))
  with pytest.raises(errors.ConfigError, match="mean 'wmt15_enfr_v003'"):
    calm_tasks.register(name='wmt15_enfr')
  with pytest.raises(errors.ConfigError, match="mean 'test'"):
    task_examples.load(NAMES[0], 'tests')
