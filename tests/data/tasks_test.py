"""Tests of the task registry."""

import pytest

from calm_jax import errors
from calm_jax.data import corpus, tasks
from calm_jax.metrics import text_metrics


def test_baseline_of_restoration_copies_the_input():
  task = tasks.get_task('docstring_restoration')
  assert task.baseline == 'input_copied'
  assert task.baseline_prediction('restore: it is here') == 'it is here'
  assert task.baseline_prediction('it is here') == 'it is here'


def test_baseline_of_summarization_is_the_first_sentence():
  task = tasks.get_task('docstring_summarization')
  example = corpus.summarization_examples(
    [('f(x) docstring: One thing. And another.', 'Does a thing with x.')]
  )[0]
  assert example.inputs == 'summarize: f(x) docstring: One thing. And another.'
  assert task.baseline_prediction(example.inputs) == 'One thing.'
  assert task.baseline_prediction('One thing. And another.') == 'One thing.'


def test_inputs_of_raw_text():
  restoration = tasks.get_task('docstring_restoration')
  assert restoration.inputs_of(' So, it\n works! ') == 'restore: so it works'
  summarization = tasks.get_task('docstring_summarization')
  assert summarization.inputs_of(' f(x)  y. ') == 'summarize: f(x) y.'


def test_inputs_of_a_target_are_the_examples_inputs(source, cache_dir):
  task = tasks.get_task('docstring_restoration')
  for example in corpus.load_corpus(
    task.name, 'test', source=source, cache_dir=cache_dir
  ):
    assert task.inputs_of(example.targets) == example.inputs


def test_metrics():
  assert tasks.get_task('docstring_restoration').metric == 'chrf'
  assert tasks.get_task('docstring_summarization').metric == 'rouge_l'
  for task in tasks.TASKS.values():
    assert set(task.metrics) <= set(text_metrics.METRICS)


def test_metric_functions_give_means_in_percent():
  fns = tasks.metric_fns(tasks.RESTORATION)
  assert [fn.__name__ for fn in fns] == ['chrf', 'exact_match']
  targets, predictions = ['It is.', 'So, it is.'], ['It is.', 'so it is']
  assert fns[1](targets, predictions) == {'exact_match': 50.0}
  expected = 50 + 50 * text_metrics.chrf('so it is', 'So, it is.')
  assert fns[0](targets, predictions)['chrf'] == pytest.approx(expected)


def test_names_of_the_mixture():
  assert tasks.task_names('docstrings') == tuple(tasks.TASKS)
  assert tasks.task_names('docstring_restoration') == ('docstring_restoration',)


def test_unknown_names():
  with pytest.raises(
    errors.ConfigError, match="mean 'docstring_summarization'"
  ):
    tasks.get_task('summarization')
  with pytest.raises(errors.ConfigError, match="mean 'docstrings'"):
    tasks.task_names('docstring')
