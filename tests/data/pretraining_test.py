"""T5's span corruption of a user's text files."""

import itertools

import numpy as np
import pytest

from calm_jax import errors
from calm_jax.config import gin_setup
from calm_jax.data import (
  calm_tasks,
  pretraining,
  seqio_tasks,
  task_examples,
  text_tasks,
)
from calm_jax.training import loop

seqio = pytest.importorskip('seqio')
tf = pytest.importorskip('tensorflow')

from calm_jax.data import span_corruption  # noqa: E402  It imports TensorFlow.

EOS = 1


@pytest.fixture(scope='module')
def paths(tmp_path_factory):
  folder = tmp_path_factory.mktemp('text')
  for name in ('a', 'b', 'held_out'):
    lines = [f'The {name} tensor has layer {i}, in order.' for i in range(30)]
    (folder / f'{name}.txt').write_text('\n'.join([*lines, '']), 'utf-8')
  return {'train': f'{folder}/?.txt', 'validation': f'{folder}/held_out.txt'}


@pytest.fixture(autouse=True)
def restored_tasks(monkeypatch):
  monkeypatch.setattr(text_tasks, '_added', dict(text_tasks._added))
  yield
  if 'span_corruption' in seqio.TaskRegistry.names():
    seqio.TaskRegistry.remove('span_corruption')


def test_the_example_of_the_paper():
  """Raffel et al. 2020, Fig. 2; ids 20 on are words, 99 on sentinels."""
  text = 'Thank you for inviting me to your party last week .'.split()
  tokens = tf.range(20, 20 + len(text))
  missing = tf.constant([word in ('for', 'inviting', 'last') for word in text])

  def words(ids):
    sentinels = {99: '<X>', 98: '<Y>', 97: '<Z>'}
    return ' '.join(sentinels.get(i) or text[i - 20] for i in ids.numpy())

  inputs = span_corruption.with_sentinels(tokens, missing, 99)
  assert words(inputs) == 'Thank you <X> me to your party <Y> week .'
  targets = span_corruption.with_sentinels(tokens, ~missing, 99)
  assert words(targets) == '<X> for inviting <Y> last <Z>'


def test_lengths_are_t5s():
  assert span_corruption.raw_length(512) == (568, 114)
  # One token more would not fit: 483 kept, 28 spans, EOS.
  assert round(568 * 0.15) == 85 and 568 - 85 + 28 + 1 == 512


@pytest.mark.parametrize('length', [2, 3, 17, 100])
def test_a_mask_has_as_many_spans_and_tokens_as_asked_for(length):
  masks = [
    span_corruption.random_spans_noise_mask(
      tf.constant(length), 0.15, 3.0, [(seed, 1), (seed, 2)]
    ).numpy()
    for seed in range(5)
  ]
  for mask in masks:
    assert len(mask) == length and mask.sum() == max(round(0.15 * length), 1)
    runs = [(key, len([*run])) for key, run in itertools.groupby(mask)]
    # Keeping first, dropping last.
    assert [key for key, _ in runs] == [False, True] * (len(runs) // 2)
    assert len(runs) // 2 == max(round(mask.sum() / 3), 1)
  assert length < 100 or len({mask.tobytes() for mask in masks}) > 1


def restored(inputs, targets, num_pieces):
  """The text's tokens: each sentinel of the inputs replaced by its span."""
  spans, sentinel = {}, None
  for token in targets[targets > EOS].tolist():
    if token >= num_pieces:
      sentinel = token
      spans[sentinel] = []
    else:
      spans[sentinel].append(token)
  return [x for i in inputs[inputs > EOS].tolist() for x in spans.get(i, [i])]


@pytest.fixture
def flags(paths, vocabulary_path):
  return [
    f'TEXT_FILES = {paths!r}',
    f"VOCABULARY_PATH = '{vocabulary_path}'",
    'VOCAB_SIZE = 512',
    'TASK_FEATURE_LENGTHS = {"inputs": 40, "targets": 16}',
    'TRAIN_STEPS = 1',
    'BATCH_SIZE = 4',
    'MODEL_DIR = "unused"',
  ]


def parse(bindings):
  gin_setup.parse(
    [
      'gin/models/t5_1_1_tiny.gin',
      'gin/runs/pretrain.gin',
      'gin/tasks/span_corruption.gin',
    ],
    bindings,
  )
  gin_setup.configured(loop.train)


def test_the_gin_files_train_on_spans_of_the_text(flags, vocabulary_path):
  parse(flags)
  vocabulary = calm_tasks.t5_vocabulary(str(vocabulary_path))
  num_pieces = vocabulary.vocab_size - calm_tasks.EXTRA_IDS
  batches = gin_setup.call(seqio_tasks.seqio_eval_batches)
  rows = [
    (batch['encoder_input_tokens'][i], batch['decoder_target_tokens'][i])
    for batch, count in batches
    for i in range(count)
  ]
  # The first span is the vocabulary's last id, T5's <extra_id_0>.
  assert all(targets[0] == vocabulary.vocab_size - 1 for _, targets in rows)
  found = [x for row in rows for x in restored(*row, num_pieces)]
  lines = [f'The held_out tensor has layer {i}, in order.' for i in range(30)]
  assert found == [x for line in lines for x in vocabulary.encode(line)]
  # All but the last row are full, with their EOS.
  assert {inputs[-1] for inputs, _ in rows[:-1]} == {EOS}


def test_spans_are_drawn_anew_and_yet_repeatable(flags):
  parse(flags)
  source = gin_setup.call(seqio_tasks.SeqioBatches)

  def take(count, start=0):
    batches = itertools.islice(source(start), count)
    return [batch['encoder_input_tokens'] for batch in batches]

  first = take(60)
  np.testing.assert_array_equal(first[50:], take(10, start=50))
  # Hundreds of rows of two short files: every epoch has other spans.
  assert len({row.tobytes() for rows in first for row in rows}) > 200


@pytest.mark.parametrize(
  ('binding', 'said'),
  [
    ('TEXT_FILES = "a.txt"', 'a path for train and one for validation'),
    ("TEXT_FILES = {'train': 'a.txt'}", 'a path for train and one'),
    (
      "TEXT_FILES = {'train': 'a.txt', 'validation': 3}",
      'a path for train and one',
    ),
    ('NOISE_DENSITY = 1.0', r'must be in \(0, 1\), got 1.0'),
    ('MEAN_NOISE_SPAN_LENGTH = 0.5', 'must be at least 1'),
    ('VOCABULARY_PATH = None', 'VOCABULARY_PATH must name'),
    ('VOCAB_SIZE = 400', 'VOCAB_SIZE must be at least 450'),
    (
      'TASK_FEATURE_LENGTHS = {"inputs": 40, "targets": 8}',
      'at least 10 tokens for inputs of 40',
    ),
    (
      'TASK_FEATURE_LENGTHS = {"inputs": 2000, "targets": 900}',
      'need 111 sentinels, the vocabulary has 100',
    ),
  ],
)
def test_what_does_not_fit_is_told(flags, binding, said):
  with pytest.raises(errors.ConfigError, match=said):
    parse([*flags, binding])
    next(gin_setup.call(seqio_tasks.SeqioBatches)(0))


def test_missing_files_are_told(flags, tmp_path):
  parse([*flags, f"TEXT_FILES = {{'train': '{tmp_path}/x', 'validation': ''}}"])
  with pytest.raises(errors.DataError, match='nothing matches'):
    next(gin_setup.call(seqio_tasks.SeqioBatches)(0))


def test_it_cannot_be_decoded(paths):
  pretraining.register(name='span_corruption', files=paths)
  with pytest.raises(errors.ConfigError, match='a task to train on'):
    task_examples.load('span_corruption', 'validation')
