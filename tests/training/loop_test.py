"""Whole runs of the loop: learning, resuming, stopping, failing."""

import functools
import json
import os
import pathlib
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest
from testing import copying

from calm_jax import errors
from calm_jax.training import (
  batch_reader,
  best,
  evaluations,
  logs,
  loop,
  optimizers,
  step,
  writers,
)

OPTIMIZER = optimizers.adafactor(3e-2)
PERIODS = loop.Periods(log=2, evaluate=4, checkpoint=4)
OBJECTIVE = step.LayerWeightedObjective(num_sampled_layers=1)
# Everything random is at work: dropout, sampled layers.
MODEL = copying.copying_model(dropout_rate=0.1)


@pytest.fixture(autouse=True)
def light(monkeypatch):
  """No TensorFlow for events; equal runs share one compiled step."""
  monkeypatch.setattr(writers, 'summary_writer', lambda directory: None)
  monkeypatch.setattr(step, 'make_train_step', _make_train_step)
  monkeypatch.setattr(step, 'make_eval_step', _make_eval_step)


_make_train_step = functools.cache(step.make_train_step)
_make_eval_step = functools.cache(step.make_eval_step)


def train(model_dir, total_steps, batches=None, **options):
  options = {'objective': OBJECTIVE, 'periods': PERIODS, **options}
  return loop.train(
    MODEL,
    batches or copying.CopyingBatches(),
    OPTIMIZER,
    model_dir,
    total_steps,
    **options,
  )


def metric_lines(model_dir, name='train'):
  path = pathlib.Path(model_dir, name, 'metrics.jsonl')
  return [json.loads(line) for line in path.read_text().splitlines()]


def losses_of(model_dir):
  return {line['step']: line['loss'] for line in metric_lines(model_dir)}


def assert_same_state(actual, expected):
  jax.tree.map(np.testing.assert_array_equal, actual, expected)


@pytest.fixture(scope='module')
def uninterrupted(tmp_path_factory):
  """(directory, final state) of 8 steps in one go."""
  directory = tmp_path_factory.mktemp('uninterrupted')
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(writers, 'summary_writer', lambda directory: None)
    patch.setattr(step, 'make_train_step', _make_train_step)
    return directory, train(directory, 8)


def test_resumed_run_equals_an_uninterrupted_one(uninterrupted, tmp_path):
  directory, expected = uninterrupted
  train(tmp_path, 4)
  actual = train(tmp_path, 8)
  assert_same_state(actual, expected)
  assert losses_of(tmp_path) == losses_of(directory)
  assert list(losses_of(tmp_path)) == [2, 4, 6, 8]


def test_iterators_and_indexed_batches_are_the_same(uninterrupted, tmp_path):
  def batches(start_step):
    while True:
      yield copying.CopyingBatches().batch_at(start_step)
      start_step += 1

  train(tmp_path, 4, batches)
  assert_same_state(train(tmp_path, 8, batches), uninterrupted[1])


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_fault_54_signal_saves_then_leaves(
  uninterrupted, tmp_path, number, capsys
):
  class Interrupting(copying.CopyingBatches):
    def batch_at(self, step):
      if step == 4:
        os.kill(os.getpid(), number)
      return super().batch_at(step)

  handler = signal.getsignal(number)
  with pytest.raises(SystemExit) as raised:
    train(tmp_path, 8, Interrupting())
  assert raised.value.code == 143
  assert signal.getsignal(number) is handler
  assert f'{number.name}: saved step 5' in capsys.readouterr().out
  assert (tmp_path / 'checkpoint_5').is_dir()
  assert list(losses_of(tmp_path)) == [2, 4, 5], 'one line of the stop'
  assert_same_state(train(tmp_path, 8), uninterrupted[1])
  found, expected = losses_of(tmp_path), losses_of(uninterrupted[0])
  assert list(found) == [2, 4, 5, 6, 8] and list(expected) == [2, 4, 6, 8]
  # Two lines, about the step before the stop and the one after it.
  pair = (found.pop(5), found.pop(6))
  assert min(pair) < expected.pop(6) < max(pair)
  assert found == expected


class Poisoned(copying.CopyingBatches):
  """An infinite loss weight in the batch of step 6."""

  def batch_at(self, step):
    batch = super().batch_at(step)
    if step == 5:
      batch['decoder_loss_weights'][0, 0] = np.inf
    return batch


def test_fault_59_nan_stops_and_keeps_the_last_good_checkpoint(tmp_path):
  with pytest.raises(errors.NumericError) as raised:
    train(tmp_path, 8, Poisoned())
  assert 'at step 6' in str(raised.value)
  assert 'checkpoint of step 4 is kept' in str(raised.value)
  assert [p.name for p in tmp_path.glob('checkpoint_*')] == ['checkpoint_4']


def test_nan_at_a_checkpoint_step_is_not_saved(tmp_path):
  periods = loop.Periods(log=2, evaluate=6, checkpoint=6)
  with pytest.raises(errors.NumericError, match='no checkpoint had been saved'):
    train(tmp_path, 6, Poisoned(), periods=periods)
  assert not list(tmp_path.glob('checkpoint_*'))


def test_fault_58_finished_run_does_nothing_and_a_shorter_one_is_refused(
  tmp_path,
):
  expected = train(tmp_path, 4)
  assert_same_state(train(tmp_path, 4), expected)
  with pytest.raises(errors.ConfigError, match='at least 4'):
    train(tmp_path, 3)


def test_shapes_are_counted(tmp_path, capsys):
  class TwoLengths:
    def batch_at(self, step):
      return copying.CopyingBatches(length=6 + step % 2).batch_at(step)

  train(tmp_path, 4, TwoLengths())
  lines = capsys.readouterr().out.splitlines()
  assert sum('compiled in' in line for line in lines) == 2
  assert any('batch shape 2: source (16, 7)' in line for line in lines)


def test_copying_is_learned_by_all_layers(tmp_path):
  batches = copying.CopyingBatches(batch_size=32, length=4, num_tokens=4)
  validation = [(batches.batch_at(10**6), 32), (batches.batch_at(10**6 + 1), 5)]
  train(
    tmp_path,
    400,
    batches,
    objective=step.LayerWeightedObjective(),
    periods=loop.Periods(log=20, evaluate=200, checkpoint=200),
    eval_batches=iter(validation),
  )
  losses = losses_of(tmp_path)
  assert losses[400] < 0.5 * losses[20]
  first, last = metric_lines(tmp_path, 'training_eval')
  assert (first['step'], last['step']) == (200, 400)
  assert last['accuracy'] > 0.8
  assert last['agreement_per_layer/layer_3'] == 1.0
  assert last['agreement_per_layer/layer_2'] > 0.6


@pytest.mark.parametrize('name', ['log', 'evaluate', 'checkpoint'])
def test_periods_must_be_positive(name):
  with pytest.raises(errors.ConfigError, match=f'Periods.{name} must be'):
    loop.Periods(**{name: 0})


def test_starts_from_another_run_with_fresh_accumulators(tmp_path):
  first = train(tmp_path / 'first', 4)
  started = train(
    tmp_path / 'second', 4, initial_checkpoint_path=tmp_path / 'first'
  )
  assert int(started.step) == 4
  fresh = train(tmp_path / 'third', 4)
  losses = [losses_of(tmp_path / x) for x in ('first', 'second', 'third')]
  assert losses[0] == losses[2] and losses[1][2] != losses[0][2]
  # The same batches a second time: what was learned in the first run shows.
  assert losses[1][2] < losses[0][2]
  # MODEL_DIR comes first: nothing is taken from the path on a resume.
  again = train(
    tmp_path / 'third', 4, initial_checkpoint_path=tmp_path / 'none'
  )
  assert_same_state(again.params, fresh.params)
  assert_same_state(first.params, fresh.params)


def test_a_missing_initial_checkpoint(tmp_path):
  with pytest.raises(errors.DataError, match='none'):
    train(tmp_path / 'run', 4, initial_checkpoint_path=tmp_path / 'none')


def test_fault_55_kill_9_loses_the_steps_since_the_last_checkpoint(
  uninterrupted, tmp_path
):
  """In a process of its own, without any chance to save."""
  program = """
import os, signal
from testing import copying
from training import loop_test as here
here.writers.summary_writer = lambda directory: None
class Killed(copying.CopyingBatches):
  def batch_at(self, step):
    if step == 6:
      os.kill(os.getpid(), signal.SIGKILL)
    return super().batch_at(step)
here.train(os.environ['MODEL_DIR'], 8, Killed())
"""
  tests = pathlib.Path(__file__).parents[1]
  paths = os.pathsep.join([str(tests), str(tests.parent)])
  result = subprocess.run(
    [sys.executable, '-c', program],
    env={**os.environ, 'PYTHONPATH': paths, 'MODEL_DIR': str(tmp_path)},
    capture_output=True,
    text=True,
  )
  assert result.returncode == -signal.SIGKILL, result.stderr
  assert [p.name for p in tmp_path.glob('checkpoint_*')] == ['checkpoint_4']
  assert_same_state(train(tmp_path, 8), uninterrupted[1])
  assert losses_of(tmp_path) == losses_of(uninterrupted[0])


def scripted_accuracies(monkeypatch, values):
  """Evaluations that give these values in turn."""
  remaining = iter(values)
  monkeypatch.setattr(
    step.LayerWeightedObjective,
    'make_evaluator',
    lambda self, module: (
      lambda params, batches: {'loss': 1.0, 'accuracy': next(remaining)}
    ),
  )


BEST = {
  'periods': loop.Periods(log=2, evaluate=2, checkpoint=4),
  'eval_batches': [copying.CopyingBatches().batch_at(99)],
  'checkpoints_to_keep': 1,
  'best_checkpoint': best.BestCheckpoint('training_eval/accuracy', patience=2),
}


def test_the_best_checkpoint_is_kept_and_training_stops_early(
  tmp_path, monkeypatch, capsys
):
  scripted_accuracies(monkeypatch, [0.1, 0.3, 0.2, 0.25])
  stopped = train(tmp_path, 20, **BEST)
  assert int(stopped.step) == 8
  assert {p.name for p in tmp_path.glob('checkpoint_*')} == {
    'checkpoint_4',  # Of the best evaluation.
    'checkpoint_8',  # The newest.
  }
  said = 'stopped early; best training_eval/accuracy 0.3000 at step 4'
  assert said in capsys.readouterr().out
  # The same command does nothing more.
  assert_same_state(train(tmp_path, 20, **BEST), stopped)
  assert said in capsys.readouterr().out


def test_an_evaluation_that_a_signal_left_out_is_made_up_for(
  tmp_path, monkeypatch
):
  class Interrupting(copying.CopyingBatches):
    def batch_at(self, step):
      if step == 3:
        os.kill(os.getpid(), signal.SIGTERM)
      return super().batch_at(step)

  scripted_accuracies(monkeypatch, [0.1])
  with pytest.raises(SystemExit):
    train(tmp_path, 8, Interrupting(), **BEST)
  # Nothing is evaluated while the machine waits to stop.
  assert [x['step'] for x in metric_lines(tmp_path, 'training_eval')] == [2]
  scripted_accuracies(monkeypatch, [0.5, 0.3, 0.4])
  train(tmp_path, 8, **BEST)
  found = metric_lines(tmp_path, 'training_eval')
  assert [(x['step'], x['accuracy']) for x in found] == [
    (2, 0.1), (4, 0.5), (6, 0.3), (8, 0.4),
  ]  # fmt: skip
  assert (tmp_path / 'checkpoint_4' / best.PINNED).is_file()


def test_the_parameters_are_listed_with_the_run(uninterrupted):
  directory, final = uninterrupted
  *lines, total = (directory / 'model-info.txt').read_text().splitlines()
  shapes = [x.shape for x in jax.tree.leaves(final.params)]
  assert len(lines) == len(shapes)
  assert total.endswith(f': {sum(map(np.prod, shapes)):,}')
  (line,) = [x for x in lines if 'token_embedder/embedding' in x]
  assert 'shape (32, 16)' in line and 'partition spec' in line


def test_batches_that_end_are_told():
  batches = batch_reader.batches_from(lambda start: iter([{}] * 2), 3)
  assert [next(batches), next(batches)] == [{}, {}]
  with pytest.raises(errors.DataError, match='ended after 5'):
    next(batches)


@pytest.mark.parametrize(
  'name, score, said',
  [
    ('training_eval/accuracy', None, 'it evaluates nothing'),
    ('inference_eval/task/bleu', dict, "run evaluates \\('training_eval/'\\)"),
  ],
)
def test_a_metric_that_the_run_does_not_measure(name, score, said, tmp_path):
  with pytest.raises(errors.ConfigError, match=said):
    evaluations.open_evaluations(
      tmp_path,
      0,
      is_due=False,
      score=score,
      infer_evaluation=None,
      best_checkpoint=best.BestCheckpoint(name),
      run_logs=logs.NoLogs(),
      is_writer=True,
    )
