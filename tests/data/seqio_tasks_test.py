"""Tests that seqio sees the same examples and makes the same arrays."""

import itertools

import numpy as np
import pytest

from calm_jax import errors
from calm_jax.data import arrays, batches, corpus, seqio_tasks, splits, tasks

seqio = pytest.importorskip('seqio')

_LENGTHS = {'inputs': 24, 'targets': 16}


@pytest.fixture(scope='module', autouse=True)
def registered(vocabulary_path, source, cache_dir):
  seqio_tasks.register(vocabulary_path, source=source, cache_dir=cache_dir)
  yield
  # Leave no made-up corpus behind for other test files.
  seqio.MixtureRegistry.remove(tasks.MIXTURE)
  for name in tasks.TASKS:
    seqio.TaskRegistry.remove(name)


@pytest.mark.parametrize('task', list(tasks.TASKS))
@pytest.mark.parametrize('split', ['test', 'validation'])
def test_seqio_makes_the_arrays_of_batches(
  task, split, tokenizer, source, cache_dir
):
  dataset = seqio.get_dataset(
    task,
    _LENGTHS,
    seqio.EncDecFeatureConverter(pack=False),
    dataset_split=split,
  )
  from_seqio = list(dataset.as_numpy_iterator())
  examples = arrays.tokenize(
    corpus.load_corpus(task, split, source=source, cache_dir=cache_dir),
    tokenizer,
    _LENGTHS,
  )
  # Some rows must be cut, else truncation is not compared.
  assert examples.truncated
  (batch, count), *rest = batches.eval_batches(examples, 512, _LENGTHS)
  assert not rest
  assert len(from_seqio) == count > 4
  for key, rows in batch.items():
    np.testing.assert_array_equal([x[key] for x in from_seqio], rows[:count])


def _take(count, start_step=0, **settings):
  source = seqio_tasks.SeqioBatches(
    **{
      'mixture_or_task_name': 'docstrings',
      'task_feature_lengths': arrays.TASK_FEATURE_LENGTHS,
      'batch_size': 8,
      'seed': 3,
    }
    | settings
  )
  return list(itertools.islice(source(start_step), count))


def test_training_batches_have_our_keys_and_types():
  expected = arrays.to_batch(
    [np.array([1])], [np.array([1])], inputs_length=64, targets_length=64
  )
  batch = _take(1)[0]
  assert set(batch) == set(expected)
  for key, value in batch.items():
    assert value.dtype == expected[key].dtype
    assert value.shape == (8, 64)
  np.testing.assert_array_equal(
    batch['decoder_loss_weights'], batch['decoder_target_tokens'] > 0
  )


def test_a_resumed_run_sees_the_same_batches():
  uninterrupted = _take(7)
  resumed = _take(3, start_step=4)
  for first, second in zip(uninterrupted[4:], resumed, strict=True):
    for key in first:
      np.testing.assert_array_equal(first[key], second[key])
  other = _take(1, seed=4)[0]['encoder_input_tokens']
  assert (other != uninterrupted[0]['encoder_input_tokens']).any()


def test_the_mixture_draws_from_both_tasks(tokenizer):
  texts = [
    tokenizer.decode(row)
    for batch in _take(20)
    for row in batch['encoder_input_tokens']
  ]
  starts = {text.split(':')[0] for text in texts}
  assert starts == {'restore', 'summarize'}


def test_splits_and_metrics_are_registered():
  task = seqio.get_mixture_or_task('docstring_restoration')
  assert set(task.splits) == set(splits.SPLITS)
  found = {}
  for fn in task.metric_fns:
    found.update(fn(targets=['It is.'], predictions=['It is.']))
  assert found == {'chrf': 100.0, 'exact_match': 100.0}


@pytest.mark.parametrize('max_examples', [None, 5])
def test_evaluation_batches_are_those_of_the_arrays(
  max_examples, tokenizer, source, cache_dir
):
  examples = corpus.load_corpus(
    'docstring_restoration', 'test', source=source, cache_dir=cache_dir
  )
  examples = arrays.tokenize(examples[:max_examples], tokenizer, _LENGTHS)
  expected = list(batches.eval_batches(examples, 8, _LENGTHS))
  actual = list(
    seqio_tasks.seqio_eval_batches(
      'docstring_restoration',
      'test',
      task_feature_lengths=_LENGTHS,
      batch_size=8,
      max_examples=max_examples,
    )
  )
  # The last batch must be a partial one.
  assert expected[-1][1] < 8
  assert [count for _, count in actual] == [count for _, count in expected]
  for (batch, _), (rows, _) in zip(actual, expected, strict=True):
    assert set(batch) == set(rows)
    for key, value in rows.items():
      np.testing.assert_array_equal(batch[key], value)


def test_a_vocabulary_larger_than_the_model_is_told(tokenizer):
  assert _take(1, vocab_size=tokenizer.vocab_size)
  with pytest.raises(errors.ConfigError, match='at least 350, .* got 349'):
    _take(1, vocab_size=349)


def test_unknown_names_are_told():
  with pytest.raises(errors.ConfigError, match="mean 'docstring_restoration'"):
    _take(1, mixture_or_task_name='docstring_restoraton')
  with pytest.raises(errors.ConfigError, match="got 'dev'"):
    _take(1, split='dev')
