"""A user's own seqio task, read as text for a dump."""

import functools

import pytest

from calm_jax import errors
from calm_jax.data import (
  seqio_tasks,
  t5_metrics,
  task_examples,
  tasks,
  vocabulary,
)

seqio = pytest.importorskip('seqio')
tf = pytest.importorskip('tensorflow')

# Longer than any length that a dump would cut.
PAIRS = [(f'say: one two {i}' + ' and' * 100, f'three {i}') for i in (1, 2, 2)]


@pytest.fixture
def add_task(vocabulary_path):
  """Registers a task of the pairs with given preprocessors."""

  def add_task(
    *preprocessors,
    metric_fns=(t5_metrics.bleu,),
    features=('inputs', 'targets'),
  ):
    feature = seqio.Feature(vocabulary.load_vocabulary(vocabulary_path))
    seqio.TaskRegistry.add(
      'own_task',
      source=seqio.FunctionDataSource(
        lambda split, shuffle_files, seed=None: (
          tf.data.Dataset.from_tensor_slices(
            {
              'inputs': [x for x, _ in PAIRS],
              'targets': [y for _, y in PAIRS],
            }
          )
        ),
        splits=('test',),
      ),
      preprocessors=[*preprocessors],
      output_features=dict.fromkeys(features, feature),
      metric_fns=[*metric_fns],
    )

  yield add_task
  if 'own_task' in seqio.TaskRegistry.names():
    seqio.TaskRegistry.remove('own_task')


def test_texts_are_what_the_task_tokenizes(add_task):
  add_task(
    seqio.preprocessors.tokenize, seqio.preprocessors.append_eos_after_trim
  )
  found = task_examples.load('own_task', 'test')
  assert {(x.inputs, x.targets) for x in found.examples} == set(PAIRS)
  assert len(found.examples) == 2
  assert (found.info.name, found.info.metric) == (
    'own_task',
    'sentence_bleu',
  )
  with pytest.raises(errors.ConfigError, match=r"\['test'\], got 'validation'"):
    task_examples.load('own_task', 'validation')


def test_tokens_are_decoded_where_the_texts_are_gone(add_task):
  def tokens_alone(dataset, output_features):
    encode = output_features['inputs'].vocabulary.encode_tf
    return dataset.map(lambda x: {k: encode(v) for k, v in x.items()})

  add_task(tokens_alone, seqio.preprocessors.append_eos_after_trim)
  found = task_examples.load('own_task', 'test')
  assert {(x.inputs, x.targets) for x in found.examples} == set(PAIRS)


def test_a_task_without_inputs_is_told(add_task):
  add_task(seqio.preprocessors.tokenize, features=('targets',))
  with pytest.raises(errors.ConfigError, match='own_task .*has no inputs'):
    task_examples.load('own_task', 'test')
  source = seqio_tasks.SeqioBatches(
    mixture_or_task_name='own_task',
    split='test',
    task_feature_lengths={'inputs': 8, 'targets': 8},
    batch_size=2,
  )
  with pytest.raises(errors.ConfigError, match='own_task .*has no inputs'):
    source(0)


def with_prefix(targets, predictions, prefix):
  raise NotImplementedError(targets, predictions, prefix)


@pytest.mark.parametrize(
  ('metric_fn', 'metric'),
  [
    (t5_metrics.rouge, 'rouge_l'),
    (t5_metrics.bleu, 'sentence_bleu'),
    (tasks.metric_fns(tasks.RESTORATION)[1], 'exact_match'),
    (functools.partial(t5_metrics.squad), 'squad_f1'),
  ],
)
def test_a_dump_is_judged_as_the_task_is(add_task, metric_fn, metric):
  add_task(seqio.preprocessors.tokenize, metric_fns=[metric_fn])
  assert task_examples.find_task('own_task').metric == metric


def test_a_metric_of_whole_splits_alone_is_told(add_task):
  metric_fn = functools.partial(with_prefix, prefix='')
  add_task(seqio.preprocessors.tokenize, metric_fns=[metric_fn])
  with pytest.warns(UserWarning, match=r'judged by chrf.*\(with_prefix\)'):
    found = task_examples.load('own_task', 'test')
  assert found.info.metric == 'chrf'


def test_a_mixture_names_its_tasks(add_task):
  add_task(seqio.preprocessors.tokenize)
  seqio.MixtureRegistry.add('own_mixture', ['own_task'], default_rate=1)
  try:
    with pytest.raises(
      errors.ConfigError, match='is a mixture.*one by one: own_task'
    ):
      task_examples.load('own_mixture', 'test')
  finally:
    seqio.MixtureRegistry.remove('own_mixture')


def test_built_in_tasks_stay_what_they_are():
  assert task_examples.find_task('docstring_restoration').prefix == 'restore: '
  assert not seqio_tasks._is_registered('squad_v010_allanswer')
