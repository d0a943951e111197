"""Training from a user's own seqio task through gin/runs/train_seqio.gin."""

import functools

import gin
import jax
import numpy as np
import pytest

from calm_jax import errors
from calm_jax.config import gin_setup
from calm_jax.data import seqio_tasks
from calm_jax.training import loop, step, writers

seqio = pytest.importorskip('seqio')

FILES = ('gin/experiments/tiny.gin', 'gin/runs/train_seqio.gin')
TASK = 'copy_for_seqio_test'
VOCAB_SIZE = 40


def _dataset_fn(split, shuffle_files, seed=None):
  import tensorflow as tf

  rows = {'train': 60, 'validation': 11}[split]
  random = np.random.default_rng(rows)
  tokens = [
    random.integers(2, VOCAB_SIZE, random.integers(3, 7)) for _ in range(rows)
  ]

  def generate():
    for row in tokens:
      yield {'inputs': row, 'targets': row}

  signature = tf.TensorSpec([None], tf.int32)
  return tf.data.Dataset.from_generator(
    generate, output_signature={'inputs': signature, 'targets': signature}
  )


@pytest.fixture(scope='module', autouse=True)
def task():
  feature = seqio.Feature(seqio.PassThroughVocabulary(VOCAB_SIZE, eos_id=1))
  seqio.TaskRegistry.add(
    TASK,
    source=seqio.FunctionDataSource(
      _dataset_fn, splits=('train', 'validation')
    ),
    preprocessors=[seqio.preprocessors.append_eos_after_trim],
    output_features={'inputs': feature, 'targets': feature},
  )
  yield
  seqio.TaskRegistry.remove(TASK)


@pytest.fixture(autouse=True)
def light(monkeypatch):
  """No TensorBoard events; one compilation; no bindings left behind."""
  monkeypatch.setattr(writers, 'summary_writer', lambda directory: None)
  for name in ('make_train_step', 'make_eval_step'):
    monkeypatch.setattr(step, name, _once(getattr(step, name)))
  yield
  gin.clear_config()


def _once(make):
  """All runs of a test have the same model, optimizer and objective."""
  made = []

  def once(*args):
    if not made:
      made.append(make(*args))
    return made[0]

  return once


def train_on(task, model_dir, total_steps, **macros):
  macros = {
    'MODEL_DIR': str(model_dir),
    'MIXTURE_OR_TASK_NAME': task,
    'TASK_FEATURE_LENGTHS': {'inputs': 8, 'targets': 7},
    'VOCAB_SIZE': VOCAB_SIZE,
    'TRAIN_STEPS': total_steps,
    **macros,
  }
  gin_setup.parse(FILES, [f'{k} = {v!r}' for k, v in macros.items()])
  return gin_setup.call(loop.train)


@pytest.mark.parametrize('saves_its_place', [False, True])
def test_a_resumed_run_equals_an_uninterrupted_one(
  saves_its_place, short_task, tmp_path, capsys
):
  name = short_task if saves_its_place else TASK
  train = functools.partial(train_on, name)
  expected = train(tmp_path / 'whole', 4)
  assert 'target (8, 7)' in capsys.readouterr().out
  train(tmp_path / 'parts', 2)
  place = tmp_path / 'parts/checkpoint_2/train_ds-00000-of-00001.index'
  assert place.is_file() == saves_its_place
  actual = train(tmp_path / 'parts', 4)
  assert 'steps 2 to 4' in capsys.readouterr().out
  jax.tree.map(np.testing.assert_array_equal, actual, expected)
  lines = [
    (tmp_path / name / 'training_eval/metrics.jsonl').read_text().splitlines()
    for name in ('whole', 'parts')
  ]
  # Evaluated at step 4, and at step 2 where the first part ends.
  assert lines[0] == lines[1][1:]


def test_fault_37_a_vocabulary_that_the_model_cannot_hold_is_told(tmp_path):
  with pytest.raises(errors.ConfigError, match='VOCAB_SIZE must be at least'):
    train_on(TASK, tmp_path, 2, VOCAB_SIZE=VOCAB_SIZE - 1)


def test_no_two_hosts_read_the_same_example():
  reader = seqio_tasks.SeqioBatches(
    mixture_or_task_name=TASK,
    task_feature_lengths={'inputs': 8, 'targets': 8},
    batch_size=12,
  )

  def rows_of(shard_id):
    batches = reader.share_from(0, shard_id, 2)
    found = [next(batches)['encoder_input_tokens'] for _ in range(100)]
    assert all(len(rows) == 6 for rows in found)
    return {tuple(row) for row in np.concatenate(found)}

  first, second = rows_of(0), rows_of(1)
  assert len(first) == len(second) == 30
  assert not first & second  # of the 60 rows of the task


def test_a_saved_place_goes_on_as_if_nothing_had_been(short_task, tmp_path):
  reader = seqio_tasks.SeqioBatches(
    mixture_or_task_name=short_task,
    task_feature_lengths={'inputs': 4, 'targets': 4},
    batch_size=4,
  )
  iterator = reader.share_from(0, 0, 1)
  rows = [next(iterator)['encoder_input_tokens'] for _ in range(9)]
  # Beyond an epoch of 6 batches.
  again = reader.share_from(0, 0, 1)
  for _ in range(7):
    next(again)
  assert again.save(tmp_path / 'place')
  for start, saved_at in ((0, tmp_path / 'place'), (7, tmp_path / 'none')):
    resumed = reader.share_from(start, 0, 1, saved_at)
    for expected in rows[7:]:
      actual = next(resumed)['encoder_input_tokens']
      np.testing.assert_array_equal(actual, expected)


@pytest.fixture
def short_task():
  """A task whose data can tell their place, unlike a generator's."""
  name = f'{TASK}_from_slices'

  def dataset_fn(split, shuffle_files, seed=None):
    import tensorflow as tf

    # 24 rows, all different.
    rows = np.arange(24, dtype=np.int32)
    tokens = 2 + np.stack([rows, rows // 7], axis=1)
    return tf.data.Dataset.from_tensor_slices(
      {'inputs': tokens, 'targets': tokens}
    )

  feature = seqio.Feature(seqio.PassThroughVocabulary(VOCAB_SIZE, eos_id=1))
  seqio.TaskRegistry.add(
    name,
    source=seqio.FunctionDataSource(dataset_fn, splits=('train', 'validation')),
    preprocessors=[seqio.preprocessors.append_eos_after_trim],
    output_features={'inputs': feature, 'targets': feature},
  )
  yield name
  seqio.TaskRegistry.remove(name)
